"""The networks of the spaces: ordinary modules of PyTorch, and, without torch, what spaces and networks both know.

Their source, and that of the blocks they are made of, is what `model.py` of a found network holds: so what a class is
made of are arguments of its constructor, and every name in it is imported or defined at the top of its module.
"""
