package latency

// The JSON documents of the commands; show and hist print a Report. With --watch they are printed again and again.
// schema.json in testdata describes them all.

// Profile is the document of `latency profile`.
type Profile struct {
	Intervals []*Report `json:"intervals"`
}

// Outliers is the document of `latency outliers`.
type Outliers struct {
	Device    string    `json:"device"`
	Volume    string    `json:"volume,omitempty"`
	Seconds   float64   `json:"duration_s"`
	Threshold int64     `json:"threshold_ns"` // requests of at least that are slow
	Rate      int       `json:"outliers_per_s"`
	Outliers  []Request `json:"outliers"`       // oldest first, at most the rate a second
	Slow      uint64    `json:"slow"`           // how many there were
	Shed      uint64    `json:"slow_not_told"`  // of them, beyond the rate
	Note      string    `json:"note,omitempty"` // what is not seen, and why
}

// Inflight is the document of `latency inflight`.
type Inflight struct {
	Device   string    `json:"device"`
	Volume   string    `json:"volume,omitempty"`
	Inflight []Request `json:"inflight"`       // oldest first
	Note     string    `json:"note,omitempty"` // what is not seen, and why
}

// Attached is the document of `latency probes`.
type Attached struct {
	Probes []Probe `json:"probes"`
	Note   string  `json:"note,omitempty"` // what counts, if no probes do
}

// Plot is the document of `latency plot`.
type Plot struct {
	File      string `json:"file"` // that was written
	Requests  uint64 `json:"requests"`
	Intervals int    `json:"intervals"`
}
