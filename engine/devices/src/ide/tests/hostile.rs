//! Bus-master DMA.
