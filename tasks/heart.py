"""Heart disease in four real hospitals: each hospital is a client.

Data: UCI Heart Disease [1]_, 920 patients in Cleveland, Budapest, Switzerland (Zurich and Basel) and Long Beach.
The columns slope, ca and thal, mostly missing outside Cleveland, are dropped, then every patient with a missing
value: 303 / 261 / 46 / 130 remain. Class 0 is no disease, class 1 is any of the degrees 1 to 4. Thirteen features:
chest pain (cp) and resting ECG (restecg) are one-hot without their first level; age, resting blood pressure,
cholesterol and highest heart rate are centred and scaled by fixed constants, (age - 50) / 10,
(trestbps - 130) / 20, (chol - 220) / 50, (thalach - 140) / 25; the rest is as recorded. Licence: CC BY 4.0.

Split: a stratified third of each hospital is its test set, and the global test set is their union; there is no
validation set. Clients are the hospitals, and all take part in every round.

Deviations from FLamby's Fed-Heart-Disease [2]_, which has the same patients and features: numbers are scaled, by
constants so that nothing leaks between hospitals; one test third is cut by FedBench's own stream, not by FLamby's
fixed seed; the model is a small perceptron, not a logistic regression. Scores do not compare.

Caveats: small test sets, so wide intervals. In Switzerland 45 of the 46 patients are ill. Cholesterol is recorded
as 0, that is not measured, for all patients of Switzerland and 33 of Long Beach; it is kept as recorded. Not for
clinical use.

References
----------
.. [1] A. Janosi, W. Steinbrunn, M. Pfisterer, R. Detrano, "Heart Disease", UCI Machine Learning Repository (1989),
   doi:10.24432/C52P4X.
.. [2] J. Ogier du Terrail et al., "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic
   Healthcare Settings", NeurIPS Datasets and Benchmarks (2022).
"""

from fedbench import Embedded, Natural, Protocol, Task

HEART = Task(
    name="heart",
    title="Heart disease (UCI), 2 classes, 4 real hospitals",
    description=__doc__,
    data=Embedded(
        file="heart.npz",
        md5="e0e47c12a8cd5d6084239b6c2c388671",
        classes=("no disease", "disease"),
        shape=(13,),
        counts={"train": 740, "validation": 0, "test": 0},
        license="CC BY 4.0",
        sites=("cleveland", "hungarian", "switzerland", "va"),
    ),
    partitioner=Natural(),
    model="mlp",
    protocol=Protocol(
        rounds=10,
        participation=1.0,
        local_epochs=5,
        batch_size=12,
        lr=0.01,
        momentum=0.9,
        local_test=1 / 3,
    ),
    source="uci-heart",
)
