// Package image builds what a guest boots from: a kernel and an initial
// ramdisk with the agent as its /init, from Debian packages that are fetched
// and never installed. The same packages and the same agent give the same bytes.
package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/guest/image/cpio"
	"github.com/kata-cc/kata-cc/guest/image/debian"
)

// Names of the files that Build writes.
const (
	KernelFile   = "vmlinux" // ELF with a PVH entry point: what Cloud Hypervisor boots, and boots fastest
	BzImageFile  = "vmlinuz" // as the package has it
	InitrdFile   = "initrd.img"
	ManifestFile = "manifest.json"

	// What boots the same guest from a disk that dm-verity protects.
	RootFile       = "root.img"
	RootInitrdFile = "root-initrd.img" // opens the disk
	RootHashFile   = "root.hash"       // of the disk, in hex, and a newline

	// DebugDir is where the debug image is, below the production image.
	DebugDir = "debug"
)

// packageProgram is a program of a package, and where its file is: Debian moved / into
// /usr after bookworm.
type packageProgram struct{ pkg, guest, before, after string }

// programs of every guest, and of the debug image besides.
var (
	programs      = []packageProgram{{"crun", "/usr/bin/crun", "/usr/bin/crun", "/bin/crun"}}
	debugPrograms = []packageProgram{{"dmsetup", "/sbin/dmsetup", "/sbin/dmsetup", "/usr/sbin/dmsetup"}}
)

const busyboxPackage = "busybox-static" // of the debug image

// Options of a build.
type Options struct {
	// Apt is where packages come from.
	Apt *debian.Apt
	// Agent and Opener are static x86-64 ELF programs: the guest's /init, and
	// that of the ramdisk which opens the root disk; the latter is modprobe too.
	Agent, Opener []byte
	// Debug puts a shell and tools into the guest. Without it, nothing that the
	// host can say makes the guest run a program of the host's choice.
	Debug bool
	// Compression of the ramdisk.
	Compression Compression
	// Modified is the time stamp of every file in the ramdisk.
	Modified time.Time
	// Progress gets a line per step; nil: none.
	Progress io.Writer
}

// Image is a kernel and a ramdisk in memory.
type Image struct {
	Kernel, BzImage, Initrd []byte
	Root                    *Root
	Manifest                Manifest
}

// Build makes an image. Packages that are not in apt's directory yet are
// fetched; nothing else is touched.
func Build(ctx context.Context, o Options) (*Image, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if err := errors.Join(checkStatic("agent", o.Agent), checkStatic("opener", o.Opener)); err != nil {
		return nil, err
	}
	var k kernel
	var packages []debian.Package
	var files map[string]debian.File
	err := o.Apt.Retry(ctx, func() (err error) {
		k, packages, files, err = gather(ctx, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(o.Progress, "putting together the %s image, kernel %s\n", o.kind(), k.modules.release)
	ramdisk, _, err := assemble(ctx, o, k, files, spareModules)
	if err != nil {
		return nil, err
	}
	t, boot, err := assemble(ctx, o, k, files, slices.Concat(spareModules, diskModules))
	if err != nil {
		return nil, err
	}
	vmlinux, err := extract(ctx, k.vmlinuz.Data)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", k.vmlinuz.Path, origin(k.pkg), err)
	}
	initrd, unpacked, err := pack(ramdisk, o)
	if err != nil {
		return nil, err
	}
	root, err := makeRoot(ctx, t, k, o)
	if err != nil {
		return nil, err
	}
	m := Manifest{
		Kind: o.kind(),
		Kernel: KernelInfo{
			Release: k.modules.release, Package: origin(k.pkg),
			Vmlinuz: kernelSum(k.vmlinuz.Data), Vmlinux: kernelSum(vmlinux),
		},
		Initrd: InitrdInfo{
			Compression: o.Compression, SHA256: sum(initrd),
			Size: int64(len(initrd)), Unpacked: unpacked,
		},
		Root:     root.info(),
		Packages: t.used(packages),
		Files:    t.files(),
	}
	for _, mod := range boot {
		m.Modules = append(m.Modules, mod.name)
	}
	return &Image{Kernel: vmlinux, BzImage: k.vmlinuz.Data, Initrd: initrd, Root: root, Manifest: m}, nil
}

func (o Options) kind() string {
	if o.Debug {
		return "debug"
	}
	return "production"
}

// programs are those of packages that the image has, without busybox.
func (o Options) programs() []packageProgram {
	if o.Debug {
		return slices.Concat(programs, debugPrograms)
	}
	return programs
}

// checkStatic refuses what could not be the first program of a guest.
func checkStatic(what string, program []byte) error {
	needed, interpreter, err := linkage(program)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", what, err, errdefs.ErrInvalidArgument)
	}
	if interpreter != "" || len(needed) > 0 {
		return fmt.Errorf("%s: needs %s %s, but must be static: %w",
			what, interpreter, strings.Join(needed, " "), errdefs.ErrInvalidArgument)
	}
	return nil
}

// gather fetches and reads all packages.
func gather(ctx context.Context, o Options) (kernel, []debian.Package, map[string]debian.File, error) {
	apt := o.Apt
	kernelPkg, err := kernelPackage(ctx, apt)
	if err != nil {
		return kernel{}, nil, nil, err
	}
	var names []string
	places := map[string]bool{}
	if o.Debug {
		names = append(names, busyboxPackage)
		places["/bin/busybox"], places["/usr/bin/busybox"] = true, true
	}
	for _, p := range o.programs() {
		names = append(names, p.pkg)
		places[p.before], places[p.after] = true, true
	}
	packages, err := apt.WithLibraries(ctx, names...)
	if err != nil {
		return kernel{}, nil, nil, err
	}
	files := map[string]debian.File{}
	for _, p := range packages {
		some, oerr := apt.Open(ctx, p, func(name string) bool { return places[name] || isLibrary(name) })
		if oerr != nil {
			return kernel{}, nil, nil, oerr
		}
		for name, f := range some {
			files[name] = f
		}
	}
	k, err := openKernel(ctx, apt, kernelPkg)
	if err != nil {
		return kernel{}, nil, nil, err
	}
	return k, append(packages, kernelPkg), files, nil
}

// assemble makes the guest's file system, with spare modules beside those it boots
// with, and says which these are.
func assemble(ctx context.Context, o Options, k kernel, files map[string]debian.File, spare []string) (tree, []module, error) {
	t := tree{}
	if err := t.file("/init", 0o755, o.Agent, "agent"); err != nil {
		return nil, nil, err
	}
	if err := t.file("/sbin/modprobe", 0o755, o.Opener, "opener"); err != nil {
		return nil, nil, err
	}
	if err := t.addSkeleton(); err != nil {
		return nil, nil, err
	}
	chosen := map[string]debian.File{}
	for _, p := range o.programs() {
		f, err := pick(files, p.before, p.after)
		if err != nil {
			return nil, nil, fmt.Errorf("package %s: %w", p.pkg, err)
		}
		chosen[p.guest] = f
	}
	if err := t.addPrograms(files, chosen); err != nil {
		return nil, nil, err
	}
	if o.Debug {
		if err := t.addShell(ctx, files); err != nil {
			return nil, nil, err
		}
	}
	boot, err := k.modules.order(ctx, bootModules)
	if err != nil {
		return nil, nil, err
	}
	all, err := k.modules.order(ctx, slices.Concat(bootModules, spare))
	if err != nil {
		return nil, nil, err
	}
	return t, boot, t.addModules(k.modules.release, boot, all)
}

// pick resolves the first of the paths that is there.
func pick(files map[string]debian.File, paths ...string) (debian.File, error) {
	for _, p := range paths {
		if _, there := files[p]; there {
			return debian.Resolve(files, p)
		}
	}
	return debian.File{}, fmt.Errorf("no file %s: %w", strings.Join(paths, " or "), errdefs.ErrNotFound)
}

// pack makes the ramdisk and says how long its archive is uncompressed.
func pack(t tree, o Options) (initrd []byte, unpacked int64, err error) {
	var out bytes.Buffer
	w, err := o.Compression.writer(&out)
	if err != nil {
		return nil, 0, err
	}
	count := &counter{w: w}
	if err := cpio.Write(count, t.entries(), o.Modified); err != nil {
		return nil, 0, err
	}
	if err := w.Close(); err != nil {
		return nil, 0, fmt.Errorf("compress the ramdisk: %w", err)
	}
	return out.Bytes(), count.n, nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// WriteTo writes the image's files into a directory, each under a temporary
// name first, so that a machine that boots meanwhile never reads half of one.
// Files that already have the right bytes are left alone.
func (i *Image) WriteTo(dir string) error {
	err := write(dir, map[string][]byte{KernelFile: i.Kernel, BzImageFile: i.BzImage})
	if err != nil {
		return err
	}
	return i.WriteGuestTo(dir)
}

// WriteGuestTo does the same without the kernel, which other images have too.
func (i *Image) WriteGuestTo(dir string) error {
	manifest, err := i.Manifest.JSON()
	if err != nil {
		return err
	}
	return write(dir, map[string][]byte{
		InitrdFile: i.Initrd, ManifestFile: manifest,
		RootFile: i.Root.Disk, RootInitrdFile: i.Root.Initrd, RootHashFile: []byte(i.Root.Hash + "\n"),
	})
}

func write(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write guest image: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := replace(filepath.Join(dir, name), files[name]); err != nil {
			return fmt.Errorf("write guest image: %w", err)
		}
	}
	return nil
}

func replace(file string, data []byte) error {
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already if it was renamed
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	return err
}
