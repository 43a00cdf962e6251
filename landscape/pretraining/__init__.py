"""How much pre-training a good subnetwork needs: what stored selections say, without torch.

``bounds``      upper bounds on the loss of a selected subnetwork, and the loss of a random one
``thresholds``  the checkpoint at which a network becomes good enough, in six meanings, as an interval
``targets``     the losses at which a study is read
``laws``        competing laws of that threshold, fitted to intervals; the exponent with its interval
``claims``      the table of claims and their verdicts
"""
