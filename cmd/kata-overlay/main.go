// kata-overlay lets the host look into the root file system of a container whose
// layers are layer files. containerd does, to find users and groups in
// /etc/passwd and /etc/group: it asks mount.fuse3 to mount the type
// fuse3.kata-overlay, and that runs
//
//	kata-overlay / TARGET -o OPTIONS
//
// with the options of the tardev snapshotter. The mount is read-only, the union
// of the layers, and every block of it is checked against the layer's root hash.
// The command returns when the mount is ready; a process stays until it is
// unmounted.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/syslog"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/kata-cc/kata-cc/tardev"
	"github.com/kata-cc/kata-cc/tardev/tarfuse"
	"github.com/kata-cc/kata-cc/verity"
)

// readyFD is where the process that stays says how the mount went: with a message
// if it failed, and with nothing if it is ready.
const readyFD = 3

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "kata-overlay: %v\n", err)
		os.Exit(1)
	}
}

// arguments are those of the command line.
type arguments struct {
	stay    bool // this is the process that stays
	target  string
	options string
}

// parseArguments reads "SOURCE TARGET [-o OPTIONS]…", flags before or after.
func parseArguments(args []string) (arguments, error) {
	var a arguments
	var options, names []string
	f := flag.NewFlagSet("kata-overlay", flag.ContinueOnError)
	f.Usage = func() { fmt.Fprintln(f.Output(), "usage: kata-overlay / TARGET -o OPTIONS") }
	f.BoolVar(&a.stay, "stay", false, "serve in this process")
	f.Func("o", "comma-separated options of the mount", func(s string) error {
		options = append(options, s)
		return nil
	})
	for len(args) > 0 {
		if err := f.Parse(args); err != nil {
			return a, err
		}
		if args = f.Args(); len(args) > 0 {
			names = append(names, args[0])
			args = args[1:]
		}
	}
	if len(names) != 2 {
		f.Usage()
		return a, fmt.Errorf("%d names, source and target are wanted", len(names))
	}
	a.target, a.options = names[1], strings.Join(options, ",")
	return a, nil
}

func run(args []string) error {
	a, err := parseArguments(args)
	if err != nil {
		return err
	}
	if !a.stay {
		return leave(a)
	}
	ready := os.NewFile(readyFD, "ready")
	server, err := serve(a)
	if err != nil {
		_, _ = io.WriteString(ready, err.Error())
		return err
	}
	if err := ready.Close(); err != nil {
		return err
	}
	server.Wait()
	return nil
}

// leave starts the process that stays and returns when its mount is ready or has
// failed. Nothing of ours stays open in it, or whoever reads our output would
// wait for its end.
func leave(a arguments) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	c := exec.Command(self, "-stay", "/", a.target, "-o", a.options)
	c.Dir = "/"
	c.ExtraFiles = []*os.File{w}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = c.Start()
	_ = w.Close()
	if err != nil {
		return err
	}
	message, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(message) > 0 {
		_ = c.Wait()
		return errors.New(string(message))
	}
	// Ready, or gone without a word: a mount that answers tells them apart.
	var st syscall.Statfs_t
	if err := syscall.Statfs(a.target, &st); err != nil || st.Type != fuseMagic {
		_ = c.Process.Kill()
		return fmt.Errorf("mount %s: the serving process failed: %w", a.target, errors.Join(err, c.Wait()))
	}
	return nil
}

// fuseMagic is the type that statfs(2) gives of a FUSE mount.
const fuseMagic = 0x65735546

// serve mounts the union of the layers at the target.
func serve(a arguments) (*tarfuse.Server, error) {
	o, err := parseOptions(a.options)
	if err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(o.dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // opened for reading
	var layers []*tardev.FS
	for _, l := range o.layers {
		fsys, err := open(dir, l)
		if err != nil {
			return nil, fmt.Errorf("layer %s with root hash %s: %w", l.name, l.rootHash, err)
		}
		layers = append(layers, fsys)
	}
	return tarfuse.MountUnion(layers, a.target, tarfuse.Options{FSName: o.source(), OnError: report(a.target)})
}

// open opens a layer file, which stays open as long as the process.
func open(dir *os.Root, l layer) (*tardev.FS, error) {
	f, err := dir.Open(l.name)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file: %w", f.Name(), fs.ErrInvalid)
	}
	data, err := verity.NewReader(f, st.Size(), l.rootHash)
	if err != nil {
		return nil, err
	}
	return tardev.Open(data, data.Size())
}

// report writes failed reads to the system's log, if there is one.
func report(target string) func(error) {
	w, err := syslog.New(syslog.LOG_ERR|syslog.LOG_DAEMON, "kata-overlay")
	if err != nil {
		return nil
	}
	return func(err error) { _ = w.Err(fmt.Sprintf("%s: %v", target, err)) }
}
