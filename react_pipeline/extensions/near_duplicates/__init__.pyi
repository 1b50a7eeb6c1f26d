from .near_duplicates import NearDuplicates as NearDuplicates
