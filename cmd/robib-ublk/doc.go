// Command robib-ublk is the command line of robib-ublk: it makes, watches and ends volumes.
package main
