// Package bench measures Shoal on the lab: how long services take to start and to go, how many are created a second,
// how long a loss lasts, and what a daemon costs.
//
// It decides what a figure means and from when to when it is taken; each measurement says so. It looks from outside
// only: the Engine API, and what the kernel tells of processes. A peer that has the same API is measured beside it, in the
// same lab, by the same client, run by run in turn.
package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Figure is what one measurement gave.
type Figure struct {
	Name   string    `json:"name"`
	Of     string    `json:"of"` // the side
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"` // one a run, in the order of the runs
}

// Median returns the middle one of the values, or the mean of the two in the middle. It is 0 without values.
func (f Figure) Median() float64 {
	v := slices.Sorted(slices.Values(f.Values))
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Machine is where the figures were taken.
type Machine struct {
	Processor string `json:"processor"`
	Cores     int    `json:"cores"`
	MemoryMB  int    `json:"memory_mb"`
	Kernel    string `json:"kernel"`
	Go        string `json:"go"`
	Commit    string `json:"commit"`
}

// Report is a run of the benchmark.
type Report struct {
	Command string    `json:"command"`
	When    time.Time `json:"when"`
	Machine Machine   `json:"machine"`
	Figures []Figure  `json:"figures"`
	Failed  []string  `json:"failed,omitempty"` // measurements that gave no figure, and why

	side string // that figures are added for
}

// add puts values to a figure, which it makes at the first.
func (r *Report) add(name, unit string, values ...float64) {
	for i := range r.Figures {
		if r.Figures[i].Name == name && r.Figures[i].Of == r.side {
			r.Figures[i].Values = append(r.Figures[i].Values, values...)
			return
		}
	}
	r.Figures = append(r.Figures, Figure{Name: name, Of: r.side, Unit: unit, Values: values})
}

// Print writes the report as a table.
func (r *Report) Print(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "%s\n%s, commit %s\n%d × %s, %d MB, Linux %s, %s\n\n", r.Command, r.When.Format(time.RFC3339), m.Commit,
		m.Cores, m.Processor, m.MemoryMB, m.Kernel, m.Go)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "median\tfrom\tto\truns\tunit\tratio\t  figure")
	for _, f := range r.byName() {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t  %s: %s\n", number(f.Median()), number(slices.Min(f.Values)), number(slices.Max(f.Values)),
			len(f.Values), f.Unit, r.ratio(f), f.Name, f.Of)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, f := range r.Failed {
		fmt.Fprintln(w, "FAILED", f)
	}
	return nil
}

// Add puts values to the figure of a side, which it makes at the first.
func (r *Report) Add(of, name, unit string, values ...float64) {
	r.side = of
	r.add(name, unit, values...)
}

// byName are the figures with the sides of each beside each other, otherwise in their order.
func (r *Report) byName() []Figure {
	var out []Figure
	for _, first := range r.Figures {
		if slices.ContainsFunc(out, func(f Figure) bool { return f.Name == first.Name }) {
			continue
		}
		for _, f := range r.Figures {
			if f.Name == first.Name {
				out = append(out, f)
			}
		}
	}
	return out
}

// ratio is the figure of the first side to that of another; the first side's own line has none.
func (r *Report) ratio(f Figure) string {
	for _, first := range r.Figures {
		if first.Name == f.Name && first.Of != f.Of && f.Median() != 0 {
			return number(first.Median() / f.Median())
		}
		if first.Name == f.Name {
			break
		}
	}
	return ""
}

// number prints three figures or so.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// Save writes the report as JSON into a folder, under its time and commit, and returns the file's name.
func (r *Report) Save(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, r.When.UTC().Format("2006-01-02T150405Z")+"-"+r.Machine.Commit+".json")
	return file, os.WriteFile(file, append(data, '\n'), 0o644)
}

// ThisMachine says where we are. What cannot be found out is left empty.
func ThisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Processor: field("/proc/cpuinfo", "model name")}
	if _, err := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%d", &m.MemoryMB); err == nil {
		m.MemoryMB /= 1024
	}
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(data))
	}
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(out))
	}
	return m
}

// field returns the value of a line "name: value" of a file of /proc.
func field(file, name string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
