"""Breast tumours in ultrasound: the smallest set, so intervals are wide.

Data: BreastMNIST [1]_, 780 grey images (28x28), malignant against normal or benign, from [2]_. Licence: CC BY 4.0.

Split: the official one of MedMNIST, 7:1:2. The 546 training images are dealt to four clients with label skew
(Dirichlet, alpha 3: with a smaller one a client may hold mostly malignant images, and the 42 of the test set are too
few for a local test set of 50 in that mix); clients are artificial.

Caveats: one image is in both the training and the test set of the official file, and the source has more images that
are nearly the same [3]_. They are kept, so that scores compare with published ones. Local test sets have 18 to 30
images on the faithful track. The protocol is FedBench's own. Not for clinical use.

References
----------
.. [1] J. Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
   classification", Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8.
.. [2] W. Al-Dhabyani et al., "Dataset of breast ultrasound images", Data in Brief 28:104863 (2020),
   doi:10.1016/j.dib.2019.104863.
.. [3] A. Pawlowska, P. Karwat, N. Zolek, letter to the editor on [2]_, Data in Brief 48:109247 (2023),
   doi:10.1016/j.dib.2023.109247.
"""

from fedbench import FEDKPER_PROTOCOL, Dirichlet, MedMNIST, Task

BREAST = Task(
    name="breast",
    title="Breast ultrasound (BreastMNIST), 2 classes, 4 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="breastmnist",
        md5="750601b1f35ba3300ea97c75c52ff8f6",
        classes=("malignant", "normal, benign"),
        shape=(28, 28, 1),
        counts={"train": 546, "validation": 78, "test": 156},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=3.0, clients=4, min_size=90),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL.but(rounds=50, participation=0.5),
    source="breastmnist",
)
