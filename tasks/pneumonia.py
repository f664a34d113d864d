"""Pneumonia in chest X-rays of children.

Data: PneumoniaMNIST [1]_, 5,856 grey images (28x28), pneumonia against normal, from [2]_. Licence: CC BY 4.0.

Split: the official one of MedMNIST: the source's training set 9:1 into training and validation, the source's
validation set as test. The training images are dealt to ten clients with label skew (Dirichlet, alpha 0.3: with two
classes a smaller alpha leaves most clients with one); clients are artificial.

Caveats: a few images occur twice in the official file: 18 repeats in train, 3 in test, 8 images in both train and
validation, none in both train and test. They are kept, so that scores compare with published ones. The protocol is
FedBench's own. Not for clinical use.

References
----------
.. [1] J. Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
   classification", Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8.
.. [2] D. S. Kermany et al., "Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep Learning",
   Cell 172(5):1122-1131 (2018), doi:10.1016/j.cell.2018.02.010.
"""

from fedbench import FEDKPER_PROTOCOL, Dirichlet, MedMNIST, Task

PNEUMONIA = Task(
    name="pneumonia",
    title="Pneumonia in chest X-rays (PneumoniaMNIST), 2 classes, 10 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="pneumoniamnist",
        md5="28209eda62fecd6e6a2d98b1501bb15f",
        classes=("normal", "pneumonia"),
        shape=(28, 28, 1),
        counts={"train": 4708, "validation": 524, "test": 624},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=0.3, clients=10, min_size=10),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL.but(rounds=50, participation=0.3),
    source="pneumoniamnist",
)
