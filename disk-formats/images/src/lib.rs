//! Image formats, one file each: they implement [`benchtop_block::DiskBackend`].
