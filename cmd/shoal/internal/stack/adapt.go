package stack

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/docker/cli/cli/compose/loader"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"shoal.dev/shoal/cmd/shoal/internal/compose"
	"shoal.dev/shoal/cmd/shoal/internal/dryrun"
)

// adaptFiles has a command that loads Compose files load them as package compose adapts them. Files that need it are given
// to docker/cli as copies: the first as its standard input, with the working directory where relative paths begin, which
// is the first file's, the others below a directory of their own. Files that do not need it are left alone.
func adaptFiles(load *cobra.Command, cli *dryrun.Cli) {
	run := load.RunE
	profiles := load.Flags().StringArray("profile", nil, `Profile of services to deploy, too ("*" is all)`)
	load.RunE = func(cmd *cobra.Command, args []string) error {
		flag := cmd.Flags().Lookup("compose-file")
		names, ok := flag.Value.(pflag.SliceValue)
		if !ok {
			return run(cmd, args)
		}
		given := names.GetSlice()
		texts, stdin, err := readFiles(given, cli.In())
		if err != nil || len(given) == 0 {
			return run(cmd, args) // which says what is wrong
		}
		files := make([]map[string]any, len(texts))
		for i, text := range texts {
			if files[i], err = loader.ParseYAML(text); err != nil {
				return fmt.Errorf("%s: %w", given[i], err)
			}
		}
		changed, err := compose.Adapt(files, *profiles, compose.Environment())
		if err != nil {
			return err
		}
		if !changed {
			if stdin != nil {
				defer cli.Feed(bytes.NewReader(stdin))()
			}
			return run(cmd, args)
		}
		back, err := replace(names, given, files, cli)
		if err != nil {
			return err
		}
		defer back()
		return run(cmd, args)
	}
}

// readFiles reads Compose files; stdin is the text of the one that is standard input, nil if none is.
func readFiles(names []string, in io.Reader) (texts [][]byte, stdin []byte, err error) {
	for _, name := range names {
		text, err := compose.ReadFile(name, in)
		if err != nil {
			return nil, nil, err
		}
		if name == "-" {
			stdin = text
		}
		texts = append(texts, text)
	}
	return texts, stdin, nil
}

// replace puts files in the place of those that the flag names, until back is called.
func replace(names pflag.SliceValue, given []string, files []map[string]any, cli *dryrun.Cli) (back func(), err error) {
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "shoal-stack")
	if err != nil {
		return nil, err
	}
	undo := []func(){func() { os.RemoveAll(dir) }}
	back = func() {
		for _, f := range slices.Backward(undo) {
			f()
		}
	}
	defer func() {
		if err != nil {
			back()
		}
	}()
	with := []string{"-"}
	for i, f := range files {
		text, err := yaml.Marshal(f)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			undo = append(undo, cli.Feed(bytes.NewReader(text)))
			continue
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return nil, err
		}
		with = append(with, path)
	}
	if given[0] != "-" {
		if err := os.Chdir(filepath.Dir(given[0])); err != nil {
			return nil, err
		}
		undo = append(undo, func() { _ = os.Chdir(wd) }) // it was there just now
	}
	if err := names.Replace(with); err != nil {
		return nil, err
	}
	undo = append(undo, func() { _ = names.Replace(given) }) // it took them before
	return back, nil
}
