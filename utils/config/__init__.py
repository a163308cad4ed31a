"""What a config may say: reading, checking, and building what it names.

Nothing here imports torch: a wrong config is answered before that. No component and no data set
lives here, only the rules by which they are named and checked.
"""
