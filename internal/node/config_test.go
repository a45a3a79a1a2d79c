package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		"no host":          {func(c *Config) { c.Hosts = nil }, "no hosts to listen on"},
		"tcp":              {func(c *Config) { c.Hosts = []string{"tcp://0.0.0.0:2375"} }, `host "tcp://0.0.0.0:2375": whoever reaches the API is root`},
		"tcp without port": {func(c *Config) { c.Hosts, c.TLS = []string{"tcp://host:x"}, new(bool) }, `host "tcp://host:x": give it as tcp://ADDRESS:PORT`},
		"tcp with a path":  {func(c *Config) { c.Hosts, c.TLS = []string{"tcp://host/path"}, new(bool) }, `host "tcp://host/path": give it as tcp://ADDRESS:PORT`},
		"another host":     {func(c *Config) { c.Hosts = []string{"fd://"} }, `host "fd://": give it as unix://PATH or tcp://ADDRESS:PORT`},
		"tls of nobody":    {func(c *Config) { c.TLSVerify, c.TLSCACert, c.TLSKey = true, "ca.pem", "key.pem" }, `TLS on TCP needs "tlscert"`},
		"tls of no CA":     {func(c *Config) { c.TLSVerify, c.TLSCert, c.TLSKey = true, "cert.pem", "key.pem" }, `tlsverify needs "tlscacert"`},
		"tls without files": {func(c *Config) {
			c.TLSVerify, c.TLSCACert, c.TLSCert, c.TLSKey = true, "/nowhere/ca", "/nowhere/cert", "/nowhere/key"
		}, "/nowhere/"},
		"empty socket":      {func(c *Config) { c.Hosts = []string{"unix://"} }, `host "unix://"`},
		"no data":           {func(c *Config) { c.DataRoot = "" }, "data-root"},
		"a full disk":       {func(c *Config) { c.DiskFull = 101 }, "disk-full: 101: give percent of the disk"},
		"generic resource":  {func(c *Config) { c.GenericResources = []string{"gpu"} }, "could not parse GenericResource: incorrect term gpu"},
		"label":             {func(c *Config) { c.Labels = []string{"zone"} }, "bad attribute format: zone"},
		"firewall":          {func(c *Config) { c.Firewall = "off" }, `firewall: "off": give "manage", or nothing`},
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
	for text, want := range map[string]string{
		`{"data-rot": "/x", "data-root": "/x", "also": 1}`: "the following directives don't match any configuration option: also, data-rot",
		`{"data-root": 7}`:       "cannot unmarshal number",
		`{"data-root": "/x"} {}`: "after top-level value",
		`{"data-root": `:         "unexpected end of JSON input",
		`[]`:                     "cannot unmarshal array",
	} {
		write(text)
		if err := c.LoadFile(file); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) || c.DataRoot != "/data" {
			t.Errorf("%s: %v, want %q; the data is at %s", text, err, want, c.DataRoot)
		}
	}
	write("\n")
	if err := c.LoadFile(file); err != nil || c.DataRoot != "/data" {
		t.Errorf("an empty file: %v, %s", err, c.DataRoot)
	}
}

func TestWhatNeedsARestart(t *testing.T) {
	a, b := DefaultConfig(), DefaultConfig()
	b.Firewall = manageFirewall
	b.Labels, b.Debug, b.LogLevel, b.RegistryMirrors, b.InsecureRegistries = []string{"a=b"}, true, "warn", []string{"http://m"}, []string{"r"}
	if got := restartKeys(&a, &b); len(got) != 0 {
		t.Errorf("live keys are said to need a restart: %v", got)
	}
	b.DataRoot, b.Hosts, b.TLS = "/other", []string{"unix:///other"}, new(bool)
	if d := cmp.Diff([]string{"data-root", "hosts", "tls"}, restartKeys(&a, &b)); d != "" {
		t.Error(d)
	}
	want := map[string]string{"name": hostname(), "debug": "true", "log-level": "warn", "labels": `["a=b"]`, "registry-mirrors": `["http://m"]`,
		"insecure-registries": `["r"]`, "firewall": "manage"}
	if d := cmp.Diff(want, liveAttributes(&b)); d != "" {
		t.Error(d)
	}
}

func TestTCP(t *testing.T) {
	on, off := new(bool), new(bool)
	*on = true
	for _, tc := range []struct {
		host   string
		change func(*Config)
		want   string
		warns  string
	}{
		{"tcp://", func(c *Config) { c.TLSVerify = true }, "127.0.0.1:2376", ""},
		{"tcp://192.0.2.1", func(c *Config) { c.TLSVerify = true }, "192.0.2.1:2376", ""},
		{"tcp://[2001:db8::1]", func(c *Config) { c.TLS = on }, "[2001:db8::1]:2376", "https://[2001:db8::1] without TLS client verification"},
		{"tcp://:99", func(c *Config) { c.TLS = off }, ":99", "http://:99 without encryption"},
		{"tcp://192.0.2.1", func(c *Config) { c.TLS = off }, "192.0.2.1:2375", "http://192.0.2.1 without encryption"},
		{"tcp://192.0.2.1", func(c *Config) { c.TLS, c.TLSVerify = off, true }, "192.0.2.1:2376", ""},
	} {
		c := Config{Hosts: []string{"unix:///x", tc.host}}
		tc.change(&c)
		got, err := c.tcpAddr(tc.host)
		if err != nil || got != tc.want {
			t.Errorf("%s: %q, %v; want %s", tc.host, got, err, tc.want)
		}
		if w := strings.Join(c.openDoors(), "\n"); (w == "") != (tc.warns == "") || !strings.Contains(w, tc.warns) {
			t.Errorf("%s warns %q, want %q", tc.host, w, tc.warns)
		}
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

func TestProxiesKeepTheirPasswords(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://me:canary@proxy:3128/")
	t.Setenv("HTTPS_PROXY", "")
	t.Setenv("https_proxy", "me:canary@proxy:3129")
	t.Setenv("NO_PROXY", "localhost")
	a, b, c := proxies()
	if a != "http://xxxxx:xxxxx@proxy:3128/" || b != "xxxxx:xxxxx@proxy:3129" || c != "localhost" {
		t.Errorf("%q %q %q", a, b, c)
	}
}
