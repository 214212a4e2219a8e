"""Which pairs of a decoded data-bin are dropped.

rules         rules for one pair, in their fixed order
length_model  the fitted relation of source length and target length
opus          the filters of the package OpusFilter
verdicts      all rules over all pairs, also those that compare pairs; counts and examples
"""
