"""Cells of the human kidney cortex under a microscope: a fifth of TissueMNIST, and all of it.

Data: TissueMNIST [1]_, 236,386 grey images (28x28) of cells in eight classes, from BBBC051 [2]_ [3]_; each is the
maximum over seven slices. Licence: CC BY 4.0 as MedMNIST states it; the source states CC BY 3.0.

``tissue`` has 47,260 of these cells: 20 of the 100 random parts into which OpenMined cut the whole set for its
tutorials (repository ``OpenMined/datasets``, folder ``TissueMNIST/subsets``), collected in one file. That cut forgot
the official split, so every client's test set is a stratified fifth of its own cells, and the global test set is their
union; there is no validation set. Its scores are no TissueMNIST test scores. ``tissue-full`` is the official file with
the official split, 7:1:2.

Split: the training images are dealt to 20 and 30 clients with label skew (Dirichlet, alpha 0.1); clients are
artificial. The parts themselves, ``sites`` of the data, are random and no hospitals.

Caveats: all cells are from three specimens, so those in training and in test are of the same people. Not for clinical
use.

References
----------
.. [1] J. Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
   classification", Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8.
.. [2] V. Ljosa, K. L. Sokolnicki, A. E. Carpenter, "Annotated high-throughput microscopy image sets for validation",
   Nature Methods 9:637 (2012), doi:10.1038/nmeth.2083.
.. [3] A. Woloshuk et al., "In Situ Classification of Cell Types in Human Kidney Tissue Using 3D Nuclear Staining",
   Cytometry Part A 99(7):707-721 (2021), doi:10.1002/cyto.a.24274.
"""

from fedbench import FEDKPER_PROTOCOL, Dirichlet, MedMNIST, Provided, Task

CLASSES = (
    "Collecting Duct, Connecting Tubule",
    "Distal Convoluted Tubule",
    "Glomerular endothelial cells",
    "Interstitial endothelial cells",
    "Leukocytes",
    "Podocytes",
    "Proximal Tubule Segments",
    "Thick Ascending Limb",
)

TISSUE = Task(
    name="tissue",
    title="Kidney cells (47,260 of TissueMNIST, a split of its own), 8 classes, 20 clients with label skew",
    description=__doc__,
    data=Provided(
        file="tissuemnist_shards20.npz",
        arrays={"x": "images", "y": "labels", "site": "shard"},
        md5="bfaa19a2117499f6fe71bf150b78f6c4",
        classes=CLASSES,
        shape=(28, 28, 1),
        counts={"train": 47260, "validation": 0, "test": 0},
        license="CC BY 4.0",
        sites=tuple(str(part) for part in range(20)),
    ),
    partitioner=Dirichlet(alpha=0.1, clients=20, min_size=10),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL,
    source="tissuemnist",
)

TISSUE_FULL = Task(
    name="tissue-full",
    title="Kidney cells (TissueMNIST), 8 classes, 30 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="tissuemnist",
        md5="ebe78ee8b05294063de985d821c1c34b",
        classes=CLASSES,
        shape=(28, 28, 1),
        counts={"train": 165466, "validation": 23640, "test": 47280},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=0.1, clients=30, min_size=10),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL,
    source="tissuemnist",
)
