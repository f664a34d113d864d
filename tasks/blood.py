"""Blood cells under a microscope: the task of the FedKPer paper, and a small one that needs no download.

Data: BloodMNIST [1]_, 17,092 colour images (28x28) of single normal blood cells in eight classes, from [2]_.
Licence: CC BY 4.0.

Split: the official one of MedMNIST, 7:1:2. The training images of ``blood`` are dealt to 20 clients with label skew
(Dirichlet, alpha 0.1); clients are artificial. Its variants change one thing each: ``-alpha0.05``, ``-alpha0.3`` and
``-alpha1.0`` the skew (``blood`` itself is alpha 0.1), ``-iid`` has none, ``-shards2`` two classes a client,
``-quantity`` equal labels but unequal sizes (log-normal, sigma 1), ``-styles`` equal labels and sizes, but images that
look different at every client, where it trains and in its local test set. In ``-heldout`` 4 of the 20 clients never
train and are served as newcomers; 2 of the other 16 take part in a round, as 2 of 20 do in ``blood``. ``-bn``,
``-mini-bn`` and ``-styles-bn`` have a model with batch normalisation, which FedBN and SiloBN are about.

Caveats: few images occur twice in the official file: 8 repeats in train, 5 images in both train and test, 3 in
train and validation, 1 in validation and test. They are kept, so that scores compare with published ones.
``blood-mini`` is a fixed draw of 1,600 / 240 / 800 images from the official splits, without any such repeat; its
scores do not compare with those of ``blood``. Not for clinical use.

References
----------
.. [1] J. Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
   classification", Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8.
.. [2] A. Acevedo et al., "A dataset of microscopic peripheral blood cell images for development of automatic
   recognition systems", Data in Brief 30:105474 (2020), doi:10.1016/j.dib.2020.105474.
.. [3] Z. Fowler, G. AlRegib, "FedKPer: Tackling Generalization and Personalization in Medical Federated
   Learning via Knowledge Personalization", arXiv:2605.00698 (2026): the protocol.
"""

from fedbench import FEDKPER_PROTOCOL, IID, Dirichlet, Embedded, LogNormalSizes, MedMNIST, Shards, SiteStyles, Task

CLASSES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)

BLOOD = Task(
    name="blood",
    title="Blood cells (BloodMNIST), 8 classes, 20 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="bloodmnist",
        md5="7053d0359d879ad8a5505303e11de1dc",
        classes=CLASSES,
        shape=(28, 28, 3),
        counts={"train": 11959, "validation": 1712, "test": 3421},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=0.1, clients=20, min_size=10),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL,
    source="bloodmnist",
)

BLOOD_MINI = Task(
    name="blood-mini",
    title="Blood cells, 1,600 training images of BloodMNIST, 8 clients with label skew",
    description=__doc__,
    data=Embedded(
        file="blood-mini.npz",
        md5="a2304c15b20f08bfb7dee745c984e82b",
        classes=CLASSES,
        shape=(28, 28, 3),
        counts={"train": 1600, "validation": 240, "test": 800},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=0.1, clients=8, min_size=10),
    model="cnn-small",
    protocol=FEDKPER_PROTOCOL.but(rounds=10, participation=0.5, personal_every=0),
    source="bloodmnist",
)

BLOOD_ALPHA_0_05, BLOOD_ALPHA_0_3, BLOOD_ALPHA_1_0 = (
    BLOOD.but(
        name=f"blood-alpha{alpha}",
        title=f"Blood cells (BloodMNIST), 8 classes, 20 clients with label skew (alpha {alpha})",
        partitioner=Dirichlet(alpha=alpha, clients=20, min_size=10),
    )
    for alpha in (0.05, 0.3, 1.0)
)

BLOOD_IID = BLOOD.but(
    name="blood-iid",
    title="Blood cells (BloodMNIST), 8 classes, 20 clients alike",
    partitioner=IID(clients=20),
)

BLOOD_SHARDS2 = BLOOD.but(
    name="blood-shards2",
    title="Blood cells (BloodMNIST), 8 classes, 20 clients with two classes each",
    partitioner=Shards(classes=2, clients=20),
)

BLOOD_QUANTITY = BLOOD.but(
    name="blood-quantity",
    title="Blood cells (BloodMNIST), 8 classes, 20 clients of unequal size",
    partitioner=LogNormalSizes(sigma=1.0, clients=20),
)

BLOOD_STYLES = BLOOD.but(
    name="blood-styles",
    title="Blood cells (BloodMNIST), 8 classes, 20 clients whose images look different",
    partitioner=IID(clients=20),
    styles=SiteStyles(),
)

BLOOD_BN = BLOOD.but(
    name="blood-bn",
    title="Blood cells (BloodMNIST), 8 classes, 20 clients with label skew, batch normalisation",
    model="cnn4-bn",
)

BLOOD_STYLES_BN = BLOOD_STYLES.but(
    name="blood-styles-bn",
    title="Blood cells (BloodMNIST), 8 classes, 20 clients whose images look different, batch normalisation",
    model="cnn4-bn",
)

BLOOD_HELDOUT = BLOOD.but(
    name="blood-heldout",
    title="Blood cells (BloodMNIST), 8 classes, 20 clients with label skew, 4 of them held out",
    held_out=0.2,
    protocol=FEDKPER_PROTOCOL.but(participation=0.125),
)

BLOOD_MINI_BN = BLOOD_MINI.but(
    name="blood-mini-bn",
    title="Blood cells, 1,600 training images of BloodMNIST, 8 clients with label skew, batch normalisation",
    model="cnn-small-bn",
)
