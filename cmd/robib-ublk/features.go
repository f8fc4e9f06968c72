package main

import (
	"fmt"
	"io"

	"github.com/robib-ublk/robib/ublk"
)

// FeaturesCmd shows what the kernel's driver offers.
type FeaturesCmd struct{}

type featureRow struct {
	ublk.Feature
	Offered bool `json:"offered"`
}

// Run asks the driver.
func (f *FeaturesCmd) Run(cli *CLI) error {
	c, err := ublk.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	bits, err := c.Features()
	if err != nil {
		return err
	}
	var rows []featureRow
	missing := uint64(0)
	for _, f := range ublk.Features {
		rows = append(rows, featureRow{f, bits&f.Bit != 0})
		if f.Used && bits&f.Bit == 0 {
			missing |= f.Bit
		}
	}
	err = cli.print(struct {
		Bits     string       `json:"bits"`
		Features []featureRow `json:"features"`
	}{fmt.Sprintf("%#x", bits), rows}, func(w io.Writer) error {
		fmt.Fprintf(w, "ublk features %#x\n", bits)
		for _, r := range rows {
			yes, use := "no", ""
			if r.Offered {
				yes = "yes"
			}
			if r.Used {
				use = ", needed"
			}
			fmt.Fprintf(w, "\t%-24s %-3s (since Linux %s%s)\n", r.Name, yes, r.Since, use)
		}
		return nil
	})
	if err == nil && missing != 0 {
		err = &ublk.FeatureError{Missing: missing}
	}
	return err
}
