//go:build planted

package mirror

// Planted says that bugs can be planted.
const Planted = true

// Plant names the planted bug; tests set it.
var Plant string
