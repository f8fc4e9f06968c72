//go:build !planted

package mirror

// Planted says that no bug can be planted in this build.
const Planted = false

// Plant is never anything else in this build, and all code behind it is compiled away.
const Plant = ""
