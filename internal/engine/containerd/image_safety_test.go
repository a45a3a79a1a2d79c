package containerd

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
)

// TestLayersStayInside unpacks layers that mean to write to the host. Whether such an image is refused or made
// harmless is the unpacker's choice; nothing of the host may change.
func TestLayersStayInside(t *testing.T) {
	l := real(t)
	header := func(typ byte, name, to string) *tar.Header {
		return &tar.Header{Typeflag: typ, Name: name, Linkname: to, Mode: 0o777}
	}
	up := strings.Repeat("../", 30)
	for name, layers := range map[string]func(host string) [][]*tar.Header{
		"dots": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeReg, up+host[1:]+"/secret", ""), header(tar.TypeReg, up+host[1:]+"/new", "")}}
		},
		"an absolute name": func(host string) [][]*tar.Header { return [][]*tar.Header{{header(tar.TypeReg, host+"/secret", "")}} },
		"an absolute link": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeSymlink, "l", host), header(tar.TypeReg, "l/secret", ""), header(tar.TypeReg, "l/new", "")}}
		},
		"a relative link": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeSymlink, "l", up+host[1:]), header(tar.TypeReg, "l/secret", "")}}
		},
		"a link of the layer below": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeSymlink, "l", host)}, {header(tar.TypeReg, "l/secret", ""), header(tar.TypeDir, "l/", "")}}
		},
		"a link in the file's place": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeSymlink, "f", host+"/secret"), header(tar.TypeReg, "f", "")}}
		},
		"a hard link": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeLink, "h", host+"/secret"), header(tar.TypeReg, "h", "")}}
		},
		"a hard link by dots": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeLink, "h", up+host[1:]+"/secret"), header(tar.TypeReg, "h", "")}}
		},
		"a hard link through a link": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeSymlink, "l", host), header(tar.TypeLink, "h", "l/secret"), header(tar.TypeReg, "h", "")}}
		},
		"a whiteout": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeSymlink, "l", host)}, {header(tar.TypeReg, "l/.wh.secret", ""), header(tar.TypeReg, up+host[1:]+"/.wh.secret", "")}}
		},
		"an opaque whiteout": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeSymlink, "l", host), header(tar.TypeReg, "l/.wh..wh..opq", "")}}
		},
		"a whiteout of the root's parent": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{header(tar.TypeReg, ".wh...", ""), header(tar.TypeReg, "a/.wh...", "")}}
		},
		"a device, written to": func(host string) [][]*tar.Header {
			return [][]*tar.Header{{{Typeflag: tar.TypeBlock, Name: "d", Devmajor: 7, Devminor: 250, Mode: 0o666}, header(tar.TypeReg, "d", "")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			host := t.TempDir()
			secret := filepath.Join(host, "secret")
			if err := os.WriteFile(secret, []byte("the host's"), 0o600); err != nil {
				t.Fatal(err)
			}
			img, err := busybox("safety " + name)
			if err != nil {
				t.Fatal(err)
			}
			for _, headers := range layers(host) {
				layer, err := tarLayer(func(w *tar.Writer) error {
					for _, h := range headers {
						if h.Typeflag == tar.TypeReg {
							h.Size = 3
						}
						if err := w.WriteHeader(h); err != nil {
							return err
						}
						if h.Typeflag == tar.TypeReg {
							if _, err := io.WriteString(w, "new"); err != nil {
								return err
							}
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if img, err = mutate.AppendLayers(img, layer); err != nil {
					t.Fatal(err)
				}
			}
			ref := "team/safety-" + strings.ToLower(strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(name)) + ":1"
			pulled := l.push(t, ref, img)
			t.Logf("pull: %v", l.engine.Pull(t.Context(), pulled, engine.PullOptions{}, nil))
			_, err = l.engine.Load(t.Context(), dockerArchive(ref, img))
			t.Logf("load: %v", err)
			t.Cleanup(func() {
				_, _ = l.engine.RemoveImage(t.Context(), pulled, true)
				_, _ = l.engine.RemoveImage(t.Context(), ref, true)
			})
			list, err := os.ReadDir(host)
			b, rerr := os.ReadFile(secret)
			var st unix.Stat_t
			if err := errors.Join(err, rerr, unix.Stat(secret, &st)); err != nil || len(list) != 1 || string(b) != "the host's" || st.Nlink != 1 || st.Mode&0o777 != 0o600 {
				t.Errorf("the host has %v, %q, %d links, %v", list, b, st.Nlink, err)
			}
		})
	}
}

// liar is the lab's registry, but for the content of one blob or manifest.
func (l *lab) liar(t *testing.T, digest string, lie func([]byte) []byte) string {
	t.Helper()
	to, err := url.Parse("http://" + l.registry)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method != http.MethodGet || !strings.HasSuffix(r.Request.URL.Path, digest) {
			return nil
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		b = lie(b)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		r.Header.Del("Content-Length")
		return nil
	}
	s := httptest.NewServer(proxy)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestWrongDigests: what a registry or an archive gives is what its digest says, or it is refused and not kept.
func TestWrongDigests(t *testing.T) {
	l := real(t)
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		return b
	}
	layer := func(m *v1.Manifest, _ v1.Hash) string { return m.Layers[1].Digest.String() }
	for name, test := range map[string]struct {
		of  func(*v1.Manifest, v1.Hash) string
		lie func([]byte) []byte
	}{
		"a layer":           {layer, flip},
		"a layer cut short": {layer, func(b []byte) []byte { return b[:len(b)/2] }},
		"a longer layer":    {layer, func(b []byte) []byte { return append(bytes.Clone(b), "more"...) }},
		"the configuration": {func(m *v1.Manifest, _ v1.Hash) string { return m.Config.Digest.String() }, flip},
		"the manifest":      {func(_ *v1.Manifest, d v1.Hash) string { return d.String() }, func(b []byte) []byte { return b[:len(b)-1] }},
	} {
		t.Run(name, func(t *testing.T) {
			img, err := busybox("digests of " + name)
			if err != nil {
				t.Fatal(err)
			}
			ref := l.push(t, "team/digests-"+strings.ReplaceAll(name, " ", "-")+":1", img)
			t.Cleanup(func() { _, _ = l.engine.RemoveImage(t.Context(), ref, true) })
			_, repo, _ := strings.Cut(ref, "/")
			m, err := img.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			d, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			asked := l.liar(t, test.of(m, d), test.lie) + "/" + repo
			t.Cleanup(func() { _, _ = l.engine.RemoveImage(t.Context(), asked, true) })
			err = l.engine.Pull(t.Context(), asked, engine.PullOptions{}, nil)
			if err == nil {
				t.Error("it was pulled")
			}
			t.Log(err)
			if _, err := l.engine.InspectImage(t.Context(), asked, nil); err == nil {
				t.Error("it is here")
			}
			if name == "a layer cut short" {
				return // the next pull goes on where it was cut, which the tests' registry does not know how to
			}
			// What the liar sent must not stand in the way of the truth.
			if err := l.engine.Pull(t.Context(), ref, engine.PullOptions{}, nil); err != nil {
				t.Errorf("from an honest registry: %v", err)
			}
		})
	}
	t.Run("another layer than the configuration says", func(t *testing.T) {
		img, err := busybox("other layer")
		if err != nil {
			t.Fatal(err)
		}
		cf, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		cf = cf.DeepCopy()
		cf.RootFS.DiffIDs[1] = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("a", 64)}
		b, err := json.Marshal(cf)
		if err != nil {
			t.Fatal(err)
		}
		bad := &configured{img, b}
		pulled := l.push(t, "team/diffid:1", bad)
		if err := l.engine.Pull(t.Context(), pulled, engine.PullOptions{}, nil); err == nil || !strings.Contains(err.Error(), "diff id") {
			t.Errorf("pull: %v", err)
		}
		if _, err := l.engine.InspectImage(t.Context(), pulled, nil); err == nil {
			t.Error("the pulled image is here")
		}
		if _, err := l.engine.Load(t.Context(), dockerArchive("diffid:1", bad)); err == nil || !strings.Contains(err.Error(), "diff id") {
			t.Errorf("load: %v", err)
		}
		if _, err := l.engine.InspectImage(t.Context(), "diffid:1", nil); err == nil {
			t.Error("the loaded image is here")
		}
	})
}

// configured is an image with another configuration.
type configured struct {
	v1.Image
	config []byte
}

func (c *configured) RawConfigFile() ([]byte, error) { return c.config, nil }

func (c *configured) ConfigName() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(c.config))
	return h, err
}

func (c *configured) Manifest() (*v1.Manifest, error) {
	m, err := c.Image.Manifest()
	if err != nil {
		return nil, err
	}
	m = m.DeepCopy()
	m.Config.Digest, err = c.ConfigName()
	m.Config.Size = int64(len(c.config))
	return m, err
}

func (c *configured) RawManifest() ([]byte, error) {
	m, err := c.Manifest()
	if err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

func (c *configured) Digest() (v1.Hash, error) {
	b, err := c.RawManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	h, _, err := v1.SHA256(bytes.NewReader(b))
	return h, err
}
