package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
)

// TestStacks runs the scripts of testdata/stacks with our client against one swarm, $OURS, and the stock one against
// another, $STOCK. Both swarms are real but for their containers.
func TestStacks(t *testing.T) {
	stock, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("there is no docker client on this machine")
	}
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/stacks",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"until": until, "same": same, "both": both},
		Setup: func(e *testscript.Env) error {
			var swarms [2]*control.Control
			for i, name := range []string{"OURS", "STOCK"} {
				sock, ctl, err := serveToySwarm(e)
				if err != nil {
					return err
				}
				swarms[i] = ctl
				e.Vars = append(e.Vars, name+"=unix://"+sock)
			}
			e.Values["swarms"] = swarms
			e.Vars = append(e.Vars, "GORACE=atexit_sleep_ms=0", "HOME="+e.WorkDir, "DOCKER="+stock)
			return stackFiles(e.WorkDir)
		},
	})
}

// stackFiles writes what is too long for a script: a stack of fifty services, and secrets and configs at their bounds.
func stackFiles(dir string) error {
	var fifty strings.Builder
	fifty.WriteString("services:\n")
	for i := range 50 {
		fmt.Fprintf(&fifty, "  s%02d:\n    image: hello:1\n    environment: {NUMBER: \"%d\"}\n    deploy: {replicas: 2}\n", i, i)
	}
	for name, data := range map[string][]byte{
		"fifty.yaml":      []byte(fifty.String()),
		"secret.fits":     bytes.Repeat([]byte{0xff}, cluster.MaxSecretSize-1),
		"secret.too-long": bytes.Repeat([]byte{0xff}, cluster.MaxSecretSize),
		"config.fits":     bytes.Repeat([]byte{0}, cluster.MaxConfigSize-1),
		"config.too-long": bytes.Repeat([]byte{0}, cluster.MaxConfigSize),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// both [REGEXP] COMMAND… runs `shoal COMMAND…` and `docker COMMAND…`, each against its own swarm. With ! both must fail and
// say the regular expression.
func both(ts *testscript.TestScript, neg bool, args []string) {
	words := ""
	if neg {
		words, args = args[0], args[1:]
	}
	for _, c := range [][2]string{{"shoal", "OURS"}, {ts.Getenv("DOCKER"), "STOCK"}} {
		err := ts.Exec(c[0], append([]string{"-H", ts.Getenv(c[1])}, args...)...)
		if (err != nil) != neg {
			ts.Fatalf("%s: %v", c[0], err)
		}
		if neg {
			ts.Check(matches(words, ts.ReadFile("stderr"), filepath.Base(c[0])))
		}
	}
}

// same fails if the two swarms' services, networks, secrets or configs differ in what users say of them.
func same(ts *testscript.TestScript, _ bool, _ []string) {
	swarms := ts.Value("swarms").([2]*control.Control)
	ours, err := described(swarms[0])
	ts.Check(err)
	stock, err := described(swarms[1])
	ts.Check(err)
	if len(stock) == 0 {
		ts.Fatalf("there is nothing to compare")
	}
	if d := cmp.Diff(stock, ours); d != "" {
		ts.Fatalf("the stock client's swarm, and ours:\n%s", d)
	}
}

// described is what was said of each object of a swarm, by its kind and name, with names in the place of IDs.
func described(c *control.Control) (map[string]any, error) {
	ctx := context.Background()
	services, err := c.Services(ctx, nil, false)
	if err != nil {
		return nil, err
	}
	networks, err := c.Networks(ctx)
	if err != nil {
		return nil, err
	}
	secrets, err := c.Secrets(ctx, nil)
	if err != nil {
		return nil, err
	}
	configs, err := c.Configs(ctx, nil)
	if err != nil {
		return nil, err
	}
	specs, names := map[string]any{}, []string{}
	for _, s := range services {
		specs["service "+s.Spec.Name] = s.Spec
	}
	for _, n := range networks {
		names = append(names, n.ID, n.Name)
		specs["network "+n.Name] = map[string]any{"driver": n.Driver, "labels": n.Labels, "attachable": n.Attachable, "internal": n.Internal}
	}
	for _, s := range secrets {
		names = append(names, s.ID, s.Spec.Name)
		specs["secret "+s.Spec.Name] = s.Spec
	}
	for _, s := range configs {
		if s.Spec.Labels["shoal.stack.revision"] == "" { // which our client keeps beside
			names = append(names, s.ID, s.Spec.Name)
			specs["config "+s.Spec.Name] = s.Spec
		}
	}
	data, err := json.Marshal(specs)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	return out, json.Unmarshal([]byte(strings.NewReplacer(names...).Replace(string(data))), &out)
}

// matches says how text does not match.
func matches(words, text, who string) error {
	re, err := regexp.Compile("(?m)" + words)
	if err == nil && !re.MatchString(text) {
		err = fmt.Errorf("%s does not say %s:\n%s", who, words, text)
	}
	return err
}
