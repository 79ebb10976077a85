// Which slots of the cache a column sees: arithmetic on its place in the ring, no mask. Twin: `Column::slot_behind` in
// src/plan.rs. The kernel has `slots` in its params.

// The slot of the n-th token that a column sees, oldest first: the sinks, then the ring up to the column's own slot.
fn slot_of(column: Column, n: u32) -> u32 {
    let behind = column.cached - n;
    let wrapped = select(0u, params.slots - column.sinks, column.slot < column.sinks + behind);
    return select(column.slot + wrapped - behind, n, n < column.sinks);
}
