package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// MaxAddresses bounds how many addresses a peer may have.
const MaxAddresses = 8

// ParseAddresses reads the addresses of one peer, separated by commas: HOST:PORT, where HOST is a
// name, an IPv4 address, or an IPv6 address in brackets. Names are looked up when they are dialed.
func ParseAddresses(text string) ([]string, error) {
	var all []string
	for a := range strings.SplitSeq(text, ",") {
		a = strings.TrimSpace(a)
		if err := checkAddress(a); err != nil {
			return nil, fmt.Errorf("address %q: %w", a, err)
		}
		if slices.Contains(all, a) {
			return nil, fmt.Errorf("address %q: it is there twice", a)
		}
		all = append(all, a)
	}
	if len(all) > MaxAddresses {
		return nil, fmt.Errorf("%d addresses: at most %d", len(all), MaxAddresses)
	}
	return all, nil
}

func checkAddress(a string) error {
	if a == "" {
		return errors.New("it is empty; want HOST:PORT")
	}
	if ip, err := netip.ParseAddr(a); err == nil && ip.Is6() {
		return fmt.Errorf("an IPv6 address needs brackets and a port, such as [%s]:7789", a)
	}
	host, port, err := net.SplitHostPort(a)
	var bad *net.AddrError
	switch {
	case errors.As(err, &bad) && bad.Err == "too many colons in address":
		return errors.New("too many colons; an IPv6 address goes in brackets, such as [fd00::2]:7789")
	case errors.As(err, &bad) && bad.Err == "missing port in address":
		return errors.New("the port is missing; want HOST:PORT")
	case err != nil:
		return errors.New("want HOST:PORT")
	case host == "":
		return errors.New("the host is missing; want HOST:PORT")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q: a number from 1 to 65535", port)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if strings.HasPrefix(a, "[") {
		return errors.New("there is no IPv6 address in the brackets")
	}
	return checkHost(host)
}

// checkHost takes what RFC 1123 takes as a host's name, and the underscores that are found in
// private names; four numbers are an IPv4 address gone wrong.
func checkHost(h string) error {
	labels := strings.Split(strings.TrimSuffix(h, "."), ".")
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" && last != "" {
		return errors.New("this is no IPv4 address, and no name ends in a number")
	}
	for _, l := range labels {
		rest := strings.Trim(strings.ToLower(l), "abcdefghijklmnopqrstuvwxyz0123456789-_")
		if l == "" || len(l) > 63 || len(h) > 253 || rest != "" || l[0] == '-' || l[len(l)-1] == '-' {
			return fmt.Errorf("%q is no host's name", h)
		}
	}
	return nil
}
