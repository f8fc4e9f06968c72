// Package mirrortest fakes what mirror describes: a seeded network, two nodes on it, and the oracle of write order.
package mirrortest
