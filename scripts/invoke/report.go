package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"time"
)

// report is the file of -report: a JSON line for each invocation, written as it happens. The nil report writes nothing.
type report struct{ file *os.File }

// reportLine is one invocation. Times are in milliseconds, to the microsecond.
type reportLine struct {
	Invocation int     `json:"invocation"` // from 1
	InitMS     float64 `json:"init_ms,omitzero"`
	DurationMS float64 `json:"duration_ms"`
	Failed     bool    `json:"failed"`
}

// createReport creates or empties the named file, readable by its owner alone. It returns nil for the empty name.
func createReport(name string) (*report, error) {
	if name == "" {
		return nil, nil
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating the report: %w", err)
	}
	return &report{file}, nil
}

func (r *report) write(number int, out outcome) error {
	if r == nil {
		return nil
	}
	err := json.NewEncoder(r.file).Encode(reportLine{
		Invocation: number,
		InitMS:     milliseconds(out.init),
		DurationMS: milliseconds(out.duration),
		Failed:     out.failed,
	})
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

func (r *report) close() {
	if r != nil {
		r.file.Close()
	}
}

func milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Microsecond)) / 1000
}
