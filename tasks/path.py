"""Colorectal cancer in stained tissue: patches of slides, tested on another hospital's.

Data: PathMNIST [1]_, 107,180 colour images (28x28) of nine kinds of tissue, from [2]_. Licence: CC BY 4.0.

Split: the official one of MedMNIST: NCT-CRC-HE-100K 9:1 into training and validation, and CRC-VAL-HE-7K, from another
clinical centre, as test. The training images are dealt to 30 clients with label skew (Dirichlet, alpha 0.1); clients
are artificial.

Caveats: on the robust track local test sets come from the official test split, so all of them are of a centre that is
none of the clients; on the faithful track they are of the training centre. The protocol is FedBench's own, after [3]_.
Not for clinical use.

References
----------
.. [1] J. Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
   classification", Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8.
.. [2] J. N. Kather et al., "Predicting survival from colorectal cancer histology slides using deep learning: A
   retrospective multicenter study", PLOS Medicine 16(1):e1002730 (2019), doi:10.1371/journal.pmed.1002730.
.. [3] Z. Fowler, G. AlRegib, "FedKPer: Tackling Generalization and Personalization in Medical Federated
   Learning via Knowledge Personalization", arXiv:2605.00698 (2026).
"""

from fedbench import FEDKPER_PROTOCOL, Dirichlet, MedMNIST, Task

PATH = Task(
    name="path",
    title="Colorectal tissue (PathMNIST), 9 classes, 30 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="pathmnist",
        md5="a8b06965200029087d5bd730944a56c1",
        classes=(
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
        shape=(28, 28, 3),
        counts={"train": 89996, "validation": 10004, "test": 7180},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=0.1, clients=30, min_size=10),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL,
    source="pathmnist",
)
