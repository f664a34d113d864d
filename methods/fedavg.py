"""FedAvg: local SGD, then the mean of the models weighted by training samples.

Source: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, arXiv:1602.05629, Algorithm 1.
"""

from dataclasses import dataclass

from fedbench import Method


@dataclass(frozen=True, kw_only=True)
class FedAvg(Method):
    """w <- sum_k p_k w_k over the sampled clients, p_k = n_k / sum n.

    Deviations: none. ``n_k`` counts the training samples that remain after the local test set is cut off; the
    learning rate follows the global round. The procedure is `fedbench.Method` itself, which every method inherits.

    Cost: one model down and one up (plus n_k, 8 bytes) a sampled client and round; no state, no extra pass.
    """

    bibtex = r"""
@inproceedings{mcmahan2017communication,
  title     = {Communication-Efficient Learning of Deep Networks from Decentralized Data},
  author    = {McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and Ag{\"u}era y Arcas, Blaise},
  booktitle = {Artificial Intelligence and Statistics (AISTATS)},
  year      = {2017},
  eprint    = {1602.05629}
}
"""
