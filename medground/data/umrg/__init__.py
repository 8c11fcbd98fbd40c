"""The published U-MRG table, read and written: parquet with the images inside, as `datasets` opens it."""

from medground.data.umrg.read import read_umrg as read_umrg
from medground.data.umrg.write import write_umrg as write_umrg
