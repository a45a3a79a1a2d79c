package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	tests := []struct {
		name   string
		values []float64
		want   float64
	}{
		{"none", nil, 0},
		{"one", []float64{3}, 3},
		{"odd", []float64{9, 1, 5}, 5},
		{"even", []float64{4, 1, 2, 100}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := Figure{Values: tt.values}
			if got := f.Median(); got != tt.want {
				t.Errorf("median %v, want %v", got, tt.want)
			}
		})
	}
}

func TestReport(t *testing.T) {
	r := &Report{Command: "bench", When: time.Unix(0, 0).UTC(), Machine: Machine{Commit: "abc", Cores: 2}, Failed: []string{"leader: why"}}
	r.side = "Shoal"
	r.add("start", "s", 1.5)
	r.add("start", "s", 0.5, 2.5)
	r.add("memory", "MB", 120)
	r.side = "Docker 1"
	r.add("start", "s", 3)
	r.side = ""
	var table bytes.Buffer
	if err := r.Print(&table); err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"1.50   0.50   2.50      3", "start: Shoal\n     3.00   3.00   3.00      1      s    0.50  start: Docker 1\n", "120", "FAILED leader: why", "commit abc"} {
		if !strings.Contains(table.String(), w) {
			t.Errorf("%q is not in\n%s", w, &table)
		}
	}
	file, err := r.Save(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(*r, back, cmp.AllowUnexported(Report{})); d != "" {
		t.Error(d)
	}
}

func TestPollSaysWhatItWaitedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := poll(ctx, time.Millisecond, func() error { return errors.New("3 of 4 run") })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "3 of 4 run") {
		t.Errorf("poll: %v", err)
	}
}

func TestKernelFigures(t *testing.T) {
	if mb, err := PSS(os.Getpid()); err != nil || mb <= 0 {
		t.Errorf("memory %v MB, %v", mb, err)
	}
	if d, err := machineCPU(); err != nil || d <= 0 {
		t.Errorf("CPU of the machine %v, %v", d, err)
	}
	if m := ThisMachine(); m.Cores == 0 || m.MemoryMB == 0 || m.Kernel == "" {
		t.Errorf("machine %+v", m)
	}
}
