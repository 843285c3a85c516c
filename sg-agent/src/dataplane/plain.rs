//! Plain data that crosses into maps.

/// Lets aya's maps hold any type that bytemuck knows to be plain data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

// SAFETY: the same promise as bytemuck's: any bytes are a value, no padding.
unsafe impl<T: bytemuck::Pod> aya::Pod for Plain<T> {}
