"""Pigmented lesions of the skin under a dermatoscope.

Data: DermaMNIST [1]_, 10,015 colour images (28x28) of seven diseases, from HAM10000 [2]_ [3]_. Licence: CC BY-NC 4.0:
not for commercial use.

Split: the official one of MedMNIST, 7:1:2. The training images are dealt to ten clients with label skew (Dirichlet,
alpha 0.3, 200 images at least: otherwise a client may hold mostly dermatofibroma, of which there are 23 test images);
clients are artificial.

Caveats: HAM10000 has several images of many lesions, and the official split does not keep them together, so images of
one lesion are in both training and test [4]_: scores are too high. Two thirds of the images are melanocytic nevi: read
the balanced accuracy, too. The protocol is FedBench's own. Not for clinical use.

References
----------
.. [1] J. Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
   classification", Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8.
.. [2] P. Tschandl, C. Rosendahl, H. Kittler, "The HAM10000 dataset, a large collection of multi-source dermatoscopic
   images of common pigmented skin lesions", Scientific Data 5:180161 (2018), doi:10.1038/sdata.2018.161.
.. [3] N. Codella et al., "Skin Lesion Analysis Toward Melanoma Detection 2018: A Challenge Hosted by the International
   Skin Imaging Collaboration (ISIC)", arXiv:1902.03368 (2019).
.. [4] K. Abhishek, A. Jain, G. Hamarneh, "Investigating the Quality of DermaMNIST and Fitzpatrick17k Dermatological
   Image Datasets", Scientific Data 12:196 (2025), doi:10.1038/s41597-025-04382-5.
"""

from fedbench import FEDKPER_PROTOCOL, Dirichlet, MedMNIST, Task

DERMA = Task(
    name="derma",
    title="Skin lesions (DermaMNIST), 7 classes, 10 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="dermamnist",
        md5="0744692d530f8e62ec473284d019b0c7",
        classes=(
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
        shape=(28, 28, 3),
        counts={"train": 7007, "validation": 1003, "test": 2005},
        license="CC BY-NC 4.0",
    ),
    partitioner=Dirichlet(alpha=0.3, clients=10, min_size=200),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL.but(participation=0.3),
    source="dermamnist",
)
