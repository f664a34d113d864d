"""Organs in abdominal CT: three views of one set of scans, and a small task that needs no download.

Data: OrganAMNIST, OrganCMNIST and OrganSMNIST [1]_: grey images (28x28) of eleven organs, cut in the axial,
coronal and sagittal plane from the centre of each organ's box in the CT scans of LiTS [2]_; the boxes are from
[3]_. 58,830 / 23,583 / 25,211 images. Licence: CC BY 4.0.

Split: the official one of MedMNIST, by scan: 115 scans for training, 16 for validation, 70 for test. The training
images are dealt to clients with label skew (Dirichlet, alpha 0.1); clients are artificial, and one scan's images
may be at several clients. The variants of ``organa`` change one thing each: ``-alpha0.05``, ``-alpha0.3`` and
``-alpha1.0`` the skew (``organa`` itself is alpha 0.1), ``-iid`` has none, ``-shards2`` two classes a client,
``-quantity`` equal labels but unequal sizes (log-normal, sigma 1), ``-styles`` equal labels and sizes, but images that
look different at every client, where it trains and in its local test set. In ``-heldout`` 6 of the 30 clients never
train and are served as newcomers; 3 of the other 24 take part in a round, as 3 of 30 do in ``organa``.

Caveats: A, C and S are views of the same scans, so they share one ``source`` and count once in claims about new
tasks. ``organc`` and ``organs`` follow the FedKPer paper [4]_; ``organa`` has the same protocol and is not in the
paper. ``organa-mini`` is a fixed draw of 1,600 / 240 / 1,200 images from the official splits; its scores do not
compare with those of ``organa``. Not for clinical use.

References
----------
.. [1] J. Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
   classification", Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8.
.. [2] P. Bilic et al., "The Liver Tumor Segmentation Benchmark (LiTS)", Medical Image Analysis 84:102680 (2023),
   doi:10.1016/j.media.2022.102680.
.. [3] X. Xu et al., "Efficient Multiple Organ Localization in CT Image Using 3D Region Proposal Network", IEEE
   Transactions on Medical Imaging 38(8):1885-1898 (2019), doi:10.1109/TMI.2019.2894854.
.. [4] Z. Fowler, G. AlRegib, "FedKPer: Tackling Generalization and Personalization in Medical Federated
   Learning via Knowledge Personalization", arXiv:2605.00698 (2026).
"""

from fedbench import FEDKPER_PROTOCOL, IID, Dirichlet, Embedded, LogNormalSizes, MedMNIST, Shards, SiteStyles, Task

CLASSES = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)

ORGANA = Task(
    name="organa",
    title="Organs in axial CT (OrganAMNIST), 11 classes, 30 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="organamnist",
        md5="68e3f8846a6bd62f0c9bf841c0d9eacc",
        classes=CLASSES,
        shape=(28, 28, 1),
        counts={"train": 34561, "validation": 6491, "test": 17778},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=0.1, clients=30, min_size=10),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL,
    source="lits",
)

ORGANC = Task(
    name="organc",
    title="Organs in coronal CT (OrganCMNIST), 11 classes, 30 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="organcmnist",
        md5="b9ceb9546e10131b32923c5bbeaea2b1",
        classes=CLASSES,
        shape=(28, 28, 1),
        counts={"train": 12975, "validation": 2392, "test": 8216},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=0.1, clients=30, min_size=10),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL,
    source="lits",
)

ORGANS = Task(
    name="organs",
    title="Organs in sagittal CT (OrganSMNIST), 11 classes, 50 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="organsmnist",
        md5="9ab87b696fb54e2a387ebe992d6ed5f1",
        classes=CLASSES,
        shape=(28, 28, 1),
        counts={"train": 13932, "validation": 2452, "test": 8827},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=0.1, clients=50, min_size=10),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL,
    source="lits",
)

ORGANA_MINI = Task(
    name="organa-mini",
    title="Organs in axial CT, 1,600 training images of OrganAMNIST, 8 clients with label skew",
    description=__doc__,
    data=Embedded(
        file="organa-mini.npz",
        md5="620778b501d41782a61f5c312dcbda4a",
        classes=CLASSES,
        shape=(28, 28, 1),
        counts={"train": 1600, "validation": 240, "test": 1200},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=0.1, clients=8, min_size=10),
    model="cnn-small",
    protocol=FEDKPER_PROTOCOL.but(rounds=10, participation=0.5, personal_every=0),
    source="lits",
)

ORGANA_ALPHA_0_05, ORGANA_ALPHA_0_3, ORGANA_ALPHA_1_0 = (
    ORGANA.but(
        name=f"organa-alpha{alpha}",
        title=f"Organs in axial CT (OrganAMNIST), 11 classes, 30 clients with label skew (alpha {alpha})",
        partitioner=Dirichlet(alpha=alpha, clients=30, min_size=10),
    )
    for alpha in (0.05, 0.3, 1.0)
)

ORGANA_IID = ORGANA.but(
    name="organa-iid",
    title="Organs in axial CT (OrganAMNIST), 11 classes, 30 clients alike",
    partitioner=IID(clients=30),
)

ORGANA_SHARDS2 = ORGANA.but(
    name="organa-shards2",
    title="Organs in axial CT (OrganAMNIST), 11 classes, 30 clients with two classes each",
    partitioner=Shards(classes=2, clients=30),
)

ORGANA_QUANTITY = ORGANA.but(
    name="organa-quantity",
    title="Organs in axial CT (OrganAMNIST), 11 classes, 30 clients of unequal size",
    partitioner=LogNormalSizes(sigma=1.0, clients=30),
)

ORGANA_STYLES = ORGANA.but(
    name="organa-styles",
    title="Organs in axial CT (OrganAMNIST), 11 classes, 30 clients whose images look different",
    partitioner=IID(clients=30),
    styles=SiteStyles(),
)

ORGANA_HELDOUT = ORGANA.but(
    name="organa-heldout",
    title="Organs in axial CT (OrganAMNIST), 11 classes, 30 clients with label skew, 6 of them held out",
    held_out=0.2,
    protocol=FEDKPER_PROTOCOL.but(participation=0.125),
)
