"""Comparative studies: methods on the same cases, honest statistics, one page.

methods    what is compared: a method or a bundle, each with its settings
cases      a pair of images each, with what is known of it: a lesion, labels, landmarks, the true deformation
run        one method on one case with one seed, in a process of its own
"""
