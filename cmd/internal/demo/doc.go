// Package demo plays the demonstration inside the lab's guest: real commands, real output.
package demo
