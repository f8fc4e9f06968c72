//go:build planted

package dcd

// Planted says that bugs can be planted.
const Planted = true

// Plant names the planted bug; tests set it.
var Plant string
