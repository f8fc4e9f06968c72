// Package tidy holds repository checks, as tests only.
package tidy
