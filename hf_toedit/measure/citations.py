"""The papers behind the measurements, as BibTeX."""

TOEDIT = """@inproceedings{zhu2025synthesize,
  title     = {How to Synthesize Text Data without Model Collapse?},
  author    = {Zhu, Xuekai and Cheng, Daixuan and Li, Hengli and Zhang, Kaiyan and Hua, Ermo and Lv, Xingtai and
               Ding, Ning and Lin, Zhouhan and Zheng, Zilong and Zhou, Bowen},
  booktitle = {Proceedings of the 42nd International Conference on Machine Learning},
  volume    = {267},
  pages     = {79746--79771},
  year      = {2025},
  url       = {https://proceedings.mlr.press/v267/zhu25d.html}
}"""

DSIR = """@inproceedings{xie2023data,
  title     = {Data Selection for Language Models via Importance Resampling},
  author    = {Xie, Sang Michael and Santurkar, Shibani and Ma, Tengyu and Liang, Percy},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {36},
  year      = {2023},
  url       = {https://arxiv.org/abs/2302.03169}
}"""

DISTINCT_N = """@inproceedings{li2016diversity,
  title     = {A Diversity-Promoting Objective Function for Neural Conversation Models},
  author    = {Li, Jiwei and Galley, Michel and Brockett, Chris and Gao, Jianfeng and Dolan, Bill},
  booktitle = {Proceedings of NAACL-HLT},
  pages     = {110--119},
  year      = {2016},
  url       = {https://aclanthology.org/N16-1014}
}"""

TEXYGEN = """@inproceedings{zhu2018texygen,
  title     = {Texygen: A Benchmarking Platform for Text Generation Models},
  author    = {Zhu, Yaoming and Lu, Sidi and Zheng, Lei and Guo, Jiaxian and Zhang, Weinan and Wang, Jun and Yu, Yong},
  booktitle = {Proceedings of SIGIR},
  year      = {2018},
  url       = {https://arxiv.org/abs/1802.01886}
}"""

VENDI = """@article{friedman2023vendi,
  title     = {The Vendi Score: A Diversity Evaluation Metric for Machine Learning},
  author    = {Friedman, Dan and Dieng, Adji Bousso},
  journal   = {Transactions on Machine Learning Research},
  year      = {2023},
  url       = {https://arxiv.org/abs/2210.02410}
}"""

MAUVE = """@inproceedings{pillutla2021mauve,
  title     = {{MAUVE}: Measuring the Gap Between Neural Text and Human Text using Divergence Frontiers},
  author    = {Pillutla, Krishna and Swayamdipta, Swabha and Zellers, Rowan and Thickstun, John and Welleck, Sean and
               Choi, Yejin and Harchaoui, Zaid},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {34},
  year      = {2021},
  url       = {https://arxiv.org/abs/2102.01454}
}"""
