"""The pure core: numbers in, numbers out. It knows no files, no Dask and no scikit-learn."""
