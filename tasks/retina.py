"""Diabetic retinopathy in images of the fundus: five grades, from none to the worst.

Data: RetinaMNIST [1]_, 1,600 colour images (28x28), graded 0 to 4, from the DeepDRiD challenge [2]_. Licence:
CC BY 4.0.

Split: the official one of MedMNIST: the source's training set 9:1 into training and validation, the source's
validation set as test. The 1,080 training images are dealt to four clients with label skew (Dirichlet, alpha 1, 200
images at least: otherwise a client may hold mostly grade 4, of which there are 20 test images); clients are artificial.

Caveats: grades are ordered, and MedMNIST calls the task ordinal regression; here they are five classes, so a grade
missed by one counts like one missed by four. Almost half of the images are of grade 0: read the balanced accuracy, too.
The protocol is FedBench's own. Not for clinical use.

References
----------
.. [1] J. Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
   classification", Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8.
.. [2] R. Liu et al., "DeepDRiD: Diabetic Retinopathy - Grading and Image Quality Estimation Challenge", Patterns
   3(6):100512 (2022), doi:10.1016/j.patter.2022.100512.
"""

from fedbench import FEDKPER_PROTOCOL, Dirichlet, MedMNIST, Task

RETINA = Task(
    name="retina",
    title="Diabetic retinopathy in fundus images (RetinaMNIST), 5 grades, 4 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="retinamnist",
        md5="bd4c0672f1bba3e3a89f0e4e876791e4",
        classes=("0", "1", "2", "3", "4"),
        shape=(28, 28, 3),
        counts={"train": 1080, "validation": 120, "test": 400},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=1.0, clients=4, min_size=200),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL.but(rounds=50, participation=0.5),
    source="retinamnist",
)
