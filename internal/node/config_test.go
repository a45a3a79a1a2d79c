package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func valid(t *testing.T) Config {
	t.Helper()
	shim := filepath.Join(t.TempDir(), "shim")
	if err := os.WriteFile(shim, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	c.Shim = shim
	return c
}

func TestConfigIsRefusedByName(t *testing.T) {
	ok := valid(t)
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*Config)
		text   string
	}{
		"no host":           {func(c *Config) { c.Hosts = nil }, "no hosts to listen on"},
		"tcp":               {func(c *Config) { c.Hosts = []string{"tcp://0.0.0.0:2375"} }, `host "tcp://0.0.0.0:2375": only unix://PATH`},
		"empty socket":      {func(c *Config) { c.Hosts = []string{"unix://"} }, `host "unix://"`},
		"no data":           {func(c *Config) { c.DataRoot = "" }, "data-root"},
		"generic resource":  {func(c *Config) { c.GenericResources = []string{"gpu"} }, "could not parse GenericResource: incorrect term gpu"},
		"label":             {func(c *Config) { c.Labels = []string{"zone"} }, "bad attribute format: zone"},
		"mirror":            {func(c *Config) { c.RegistryMirrors = []string{"mirror:5000"} }, `invalid mirror: "mirror:5000"`},
		"insecure registry": {func(c *Config) { c.InsecureRegistries = []string{"http://r:5000"} }, `insecure registry "http://r:5000"`},
		"log level":         {func(c *Config) { c.LogLevel = "chatty" }, `log level "chatty"`},
		"shim":              {func(c *Config) { c.Shim = "/nowhere/shim" }, "the shim is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			c := valid(t)
			tc.change(&c)
			if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want %q", err, tc.text)
			}
		})
	}
}

func TestDaemonJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "daemon.json")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"data-root": "/data", "labels": ["zone=a"], "registry-mirrors": ["http://198.18.0.251:5000"]}`)
	c := DefaultConfig()
	if err := c.LoadFile(file); err != nil {
		t.Fatal(err)
	}
	if c.DataRoot != "/data" || c.Runtime != "runc" || c.labels()["zone"] != "a" {
		t.Errorf("%+v", c)
	}
	write(`{"data-rot": "/data"}`)
	if err := c.LoadFile(file); err == nil || !strings.Contains(err.Error(), `"data-rot"`) {
		t.Errorf("an unknown key is not named: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	for _, tc := range []struct{ what, in, want string }{
		{"listen", "", "0.0.0.0:2377"},
		{"listen", "198.18.0.1", "198.18.0.1:2377"},
		{"listen", "198.18.0.1:4000", "198.18.0.1:4000"},
		{"listen", "nosuchif0", "error"},
		{"advertise", "198.18.0.1", "198.18.0.1:2377"},
		{"advertise", "198.18.0.1:4000", "198.18.0.1:4000"},
		{"advertise", "0.0.0.0", "error"},
		{"advertise", "nosuchif0", "error"},
		{"advertise", "lo", "127.0.0.1:2377"},
	} {
		t.Run(tc.what+" "+tc.in, func(t *testing.T) {
			var got string
			var err error
			if tc.what == "listen" {
				got, err = resolveListen(tc.in)
			} else {
				got, err = resolveAdvertise(tc.in, "0.0.0.0:2377")
			}
			if (err != nil) != (tc.want == "error") || err == nil && got != tc.want {
				t.Errorf("%q, %v; want %s", got, err, tc.want)
			}
		})
	}
	if got, err := resolveAdvertise("", "198.18.0.7:2377"); err != nil || got != "198.18.0.7:2377" {
		t.Errorf("the listen address is not advertised: %q, %v", got, err)
	}
}

func TestCompleteAddr(t *testing.T) {
	for _, tc := range [][3]string{
		{":2377", "198.18.0.2:5555", "198.18.0.2:2377"},
		{"198.18.0.3:2377", "198.18.0.2:5555", "198.18.0.3:2377"},
		{":4000", "198.18.0.2:5555", "198.18.0.2:4000"},
	} {
		if got := completeAddr(tc[0], tc[1]); got != tc[2] {
			t.Errorf("%s seen from %s: %s, want %s", tc[0], tc[1], got, tc[2])
		}
	}
}
