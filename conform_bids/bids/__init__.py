"""The disk: datasets, file names, images, events and derivatives.

Nothing is imported here: take what is needed from the modules (`names`, `index`, `bold`, `images`, `events`,
`confounds`, `derivatives`), so that a dry run loads no nibabel.
"""
