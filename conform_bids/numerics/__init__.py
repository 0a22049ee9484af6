"""Shared, pure numerics: arrays in, arrays out; no disk, no tables, no images.

``hrf_library.tsv``, packaged here, holds double-gamma parameters fitted to the 20 curves of GLMsingle's HRF library
(which were fitted to the Natural Scenes Dataset; largest error 3e-5 of the peak), and a row ``canonical`` fitted to its
assumed HRF (3e-3 of the peak). `conform_bids.bids.hrf_tables` reads it.
"""
