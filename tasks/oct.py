"""Diseases of the retina in optical coherence tomography.

Data: OCTMNIST [1]_, 109,309 grey images (28x28) of three diseases and of healthy retinas, from [2]_. Licence:
CC BY 4.0.

Split: the official one of MedMNIST: the source's training set 9:1 into training and validation, the source's
validation set as test, 250 images of each class. The training images are dealt to 20 clients with label skew
(Dirichlet, alpha 0.3: with four classes a smaller alpha leaves most clients with one); clients are artificial.

Caveats: the test set is balanced, the training set is not. The protocol is FedBench's own. Not for clinical use.

References
----------
.. [1] J. Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
   classification", Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8.
.. [2] D. S. Kermany et al., "Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep Learning",
   Cell 172(5):1122-1131 (2018), doi:10.1016/j.cell.2018.02.010.
"""

from fedbench import FEDKPER_PROTOCOL, Dirichlet, MedMNIST, Task

OCT = Task(
    name="oct",
    title="Retinal diseases in OCT (OCTMNIST), 4 classes, 20 clients with label skew",
    description=__doc__,
    data=MedMNIST(
        flag="octmnist",
        md5="c68d92d5b585d8d81f7112f81e2d0842",
        classes=("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        shape=(28, 28, 1),
        counts={"train": 97477, "validation": 10832, "test": 1000},
        license="CC BY 4.0",
    ),
    partitioner=Dirichlet(alpha=0.3, clients=20, min_size=10),
    model="cnn4",
    protocol=FEDKPER_PROTOCOL,
    source="octmnist",
)
