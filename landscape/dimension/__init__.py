"""The dimension of a slow (inertial) manifold of training, the theory's preconditions and their margins.

Nothing here proves that a network has an inertial manifold. Conditions are checked on sampled regions: every sampled
Lipschitz constant is a lower bound, so every radius is an upper bound, and failing a sufficient condition is not the
absence of a manifold.

========================  ============================================================================================
``rates``                 effective rates of modes under gradient flow, gradient descent, heavy ball, preconditioning
``rules``, ``plateau``    gap rules, heuristics with a significance test, the historical plateau rule
``lipschitz``, ``tensor``  change of the Hessian within a radius, adversarial search, third derivatives, ReLU kinks
``cone``                  the cone gap at points and over segments
``horizon``               frozen, active and slaved modes over a finite time; effective numbers of modes
``slaving``, ``graphs``   twin runs, steady graph, approximate manifolds, invariance, reduced training
``testbed``, ``bracket``  systems with known answers; ``chafee_infante`` is the largest
========================  ============================================================================================
"""
