package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/lab"
)

// idleCommand runs until it is killed and does nothing.
var idleCommand = []string{"sleep", "1000"}

func createContainer(ctx context.Context, c *client.Client, cmd []string) (string, error) {
	res, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Config: &container.Config{Image: shellImage, Cmd: cmd}})
	return res.ID, err
}

func startContainer(ctx context.Context, c *client.Client, cmd []string) (string, error) {
	id, err := createContainer(ctx, c, cmd)
	if err != nil {
		return "", err
	}
	_, err = c.ContainerStart(ctx, id, client.ContainerStartOptions{})
	return id, err
}

func removeContainer(ctx context.Context, c *client.Client, id string) error {
	_, err := c.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true})
	return err
}

// containers measures one container's whole life, from the request to create it until it is removed by force, alone and
// eight at a time.
func containers(ctx context.Context, g *rig, r *Report, _ int) error {
	for _, load := range []struct {
		name         string
		at, a, warms int // so many at a time, each so often
	}{{"alone", 1, 20, 2}, {"8 at a time", 8, 5, 1}} {
		if _, err := lives(ctx, g, load.at, load.warms); err != nil {
			return err
		}
		daemons, err := g.daemonCPU()
		if err != nil {
			return err
		}
		machine, err := machineCPU()
		if err != nil {
			return err
		}
		took, err := lives(ctx, g, load.at, load.a)
		if err != nil {
			return err
		}
		daemonsAfter, err := g.daemonCPU()
		if err != nil {
			return err
		}
		machineAfter, err := machineCPU()
		if err != nil {
			return err
		}
		n := float64(load.at * load.a)
		r.add("container create, start, rm -f, "+load.name, "ms", ms(took)/n)
		r.add("CPU of the machine for that, "+load.name, "ms", ms(machineAfter-machine)/n)
		r.add("CPU of the daemons for that, "+load.name, "ms", ms(daemonsAfter-daemons)/n)
	}
	return nil
}

// lives lets containers live, so many at a time and each of these so often, and says how long all took.
func lives(ctx context.Context, g *rig, at, each int) (time.Duration, error) {
	c := g.clients[0]
	errs := make([]error, at)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range at {
		wg.Go(func() {
			for range each {
				id, err := startContainer(ctx, c, idleCommand)
				if err == nil {
					err = removeContainer(ctx, c, id)
				}
				if err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begin), errors.Join(errs...)
}

// crowd is how many idle containers the memory of one is taken of.
const crowd = 20

// memory takes what idle containers cost beside their own processes: their shims, and what the daemons grew by.
func memory(ctx context.Context, g *rig, r *Report, _ int) (err error) {
	c := g.clients[0]
	before, err := g.daemonPSS(1)
	if err != nil {
		return err
	}
	var ids []string
	defer func() {
		for _, id := range ids {
			err = errors.Join(err, removeContainer(ctx, c, id))
		}
	}()
	for range crowd {
		id, err := startContainer(ctx, c, idleCommand)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	after, err := g.daemonPSS(1)
	if err != nil {
		return err
	}
	shims := map[int]bool{}
	for _, id := range ids {
		res, err := c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if err != nil {
			return err
		}
		shim, err := parent(res.Container.State.Pid)
		if err != nil {
			return err
		}
		shims[shim] = true
	}
	var sum float64
	for pid := range shims {
		mb, err := PSS(pid)
		if err != nil {
			return err
		}
		sum += mb
	}
	r.add(fmt.Sprintf("shim memory an idle container, of %d (PSS)", crowd), "MB", sum/crowd)
	r.add(fmt.Sprintf("daemon memory an idle container, of %d (PSS)", crowd), "MB", (after-before)/crowd)
	return nil
}

func parent(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(data), ") ")
	return strconv.Atoi(strings.Fields(after)[1])
}

// What a container writes for the measurement of logs: lines of 128 bytes, from a file, so that making them costs
// nothing meanwhile.
const (
	logBytes = 64 << 20
	logLine  = 128
)

// logs measures how fast a container's output goes into its log, between the time stamps of its first and its last
// line, and how fast it is read back. Both daemons write json-file without a bound.
func logs(ctx context.Context, g *rig, r *Report, _ int) (err error) {
	c := g.clients[0]
	script := fmt.Sprintf("yes %s | head -c %d >/tmp/f; cat /tmp/f", strings.Repeat("x", logLine-1), logBytes)
	id, err := createContainer(ctx, c, []string{"sh", "-c", script})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeContainer(ctx, c, id)) }()
	ended := c.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := c.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return err
	}
	select {
	case res := <-ended.Result:
		if res.StatusCode != 0 {
			return fmt.Errorf("the writer ended with %d", res.StatusCode)
		}
	case err := <-ended.Error:
		return err
	}
	first, _, err := readLog(ctx, c, id, "all", 1)
	if err != nil {
		return err
	}
	last, _, err := readLog(ctx, c, id, "1", 1)
	if err != nil {
		return err
	}
	r.add("log written", "MB/s", logBytes/1e6/last.Sub(first).Seconds())
	begin := time.Now()
	_, n, err := readLog(ctx, c, id, "all", 0)
	if err != nil {
		return err
	}
	if n != logBytes {
		return fmt.Errorf("the log has %d bytes, not %d", n, logBytes)
	}
	r.add("log read", "MB/s", logBytes/1e6/time.Since(begin).Seconds())
	return nil
}

// readLog reads a log, at most so many lines if lines is not 0, and returns the first line's time and how many bytes the
// container wrote of it.
func readLog(ctx context.Context, c *client.Client, id, tail string, lines int) (first time.Time, bytes int, err error) {
	o := client.ContainerLogsOptions{ShowStdout: true, Tail: tail, Timestamps: lines > 0}
	body, err := c.ContainerLogs(ctx, id, o)
	if err != nil {
		return first, 0, err
	}
	defer body.Close()
	in := bufio.NewReaderSize(body, 1<<20)
	var head [8]byte // the stream, three zeros, the length of the frame
	for i := 0; lines == 0 || i < lines; i++ {
		if _, err := io.ReadFull(in, head[:]); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return first, bytes, err
		}
		size := int(binary.BigEndian.Uint32(head[4:]))
		if !o.Timestamps {
			if _, err := in.Discard(size); err != nil {
				return first, bytes, err
			}
			bytes += size
			continue
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(in, frame); err != nil {
			return first, bytes, err
		}
		stamp, rest, _ := strings.Cut(string(frame), " ")
		if i == 0 {
			if first, err = time.Parse(time.RFC3339Nano, stamp); err != nil {
				return first, bytes, err
			}
		}
		bytes += len(rest)
	}
	return first, bytes, nil
}

// many is how many containers a list is taken of, and listings how often that is done a run.
const (
	many     = 1000
	listings = 20
)

func thousand(ctx context.Context, g *rig, _ *Report) error {
	c := g.clients[0]
	const at = 8
	errs := make([]error, at)
	var wg sync.WaitGroup
	for i := range at {
		wg.Go(func() {
			for range many / at {
				if _, errs[i] = createContainer(ctx, c, idleCommand); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ps measures the list of a thousand containers, as the client's library gets it.
func ps(ctx context.Context, g *rig, r *Report, _ int) error {
	var times Figure
	for range listings {
		begin := time.Now()
		res, err := g.clients[0].ContainerList(ctx, client.ContainerListOptions{All: true})
		if err != nil {
			return err
		}
		if len(res.Items) != many {
			return fmt.Errorf("the list has %d containers, not %d", len(res.Items), many)
		}
		times.Values = append(times.Values, ms(time.Since(begin)))
	}
	r.add(fmt.Sprintf("ps -a of %d containers", many), "ms", times.Median())
	return nil
}

// bigName is an image of bigLayers layers of bigLayer bytes that cannot be compressed.
const (
	bigName   = lab.Registry + "/bench/big:1"
	bigLayers = 6
	bigLayer  = 8 << 20
)

// bigImage brings the image to the lab's registry; it is the same for each side.
func bigImage(ctx context.Context, _ *rig, _ *Report) error {
	img, err := random.Image(bigLayer, bigLayers, random.WithSource(rand.NewSource(1)))
	if err != nil {
		return err
	}
	ref, err := name.ParseReference(bigName, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(ref, img, remote.WithContext(ctx), remote.WithTransport(lab.HTTPClient(lab.RegistryNamespace, time.Minute).Transport))
}

// pulls measures a pull of an image that is not there.
func pulls(ctx context.Context, g *rig, r *Report, _ int) error {
	c := g.clients[0]
	machine, err := machineCPU()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := pull(ctx, c, bigName); err != nil {
		return err
	}
	took := time.Since(begin)
	machineAfter, err := machineCPU()
	if err != nil {
		return err
	}
	r.add(fmt.Sprintf("pull of %d layers of %d MB", bigLayers, bigLayer>>20), "s", took.Seconds())
	r.add("CPU of the machine for that", "s", (machineAfter - machine).Seconds())
	_, err = c.ImageRemove(ctx, bigName, client.ImageRemoveOptions{})
	return err
}
