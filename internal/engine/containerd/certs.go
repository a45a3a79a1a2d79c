package containerd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// hostTLS is how far a registry is trusted and who we are to it: NAME.crt files are authorities beside the system's,
// NAME.cert with NAME.key is a certificate of ours. dirs hold a folder HOST[:PORT] each, in Docker's form; later ones add
// to earlier ones. It returns nil if there is none. They are read at every use, so that a new one counts at once.
func hostTLS(dirs []string, host string) (*tls.Config, error) {
	var c *tls.Config
	for _, dir := range dirs {
		dir = filepath.Join(dir, filepath.Base(host))
		files, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if c == nil {
				c = &tls.Config{MinVersion: tls.VersionTLS12}
			}
			if err := addCert(c, dir, f.Name()); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

func addCert(c *tls.Config, dir, name string) error {
	base := strings.TrimSuffix(name, filepath.Ext(name))
	switch filepath.Ext(name) {
	case ".crt":
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if c.RootCAs == nil {
			if c.RootCAs, err = x509.SystemCertPool(); err != nil {
				c.RootCAs = x509.NewCertPool()
			}
		}
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return fmt.Errorf("%s holds no certificate", filepath.Join(dir, name))
		}
	case ".cert":
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name), filepath.Join(dir, base+".key"))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("missing key %s.key for client certificate %s. CA certificates must use the extension .crt", base, name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
		c.Certificates = append(c.Certificates, pair)
	case ".key":
		if _, err := os.Stat(filepath.Join(dir, base+".cert")); err != nil {
			return fmt.Errorf("missing client certificate %s.cert for key %s", base, name)
		}
	}
	return nil
}
