package image

import "io/fs"

// skeletonDirs are the empty folders of the guest: mount points and homes.
var skeletonDirs = map[string]fs.FileMode{
	"/proc": 0o555, "/sys": 0o555, "/dev": 0o755, "/run": 0o755, "/mnt": 0o755, "/var": 0o755,
	"/root": 0o700, "/tmp": 0o777 | fs.ModeSticky, "/usr/sbin": 0o755,
}

// skeletonFiles are the few files that programs look for in any system.
var skeletonFiles = map[string]string{
	"/etc/passwd":   "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"/etc/group":    "root:x:0:\ndisk:x:6:\nnogroup:x:65534:\n",
	"/etc/hosts":    "127.0.0.1 localhost\n::1 localhost\n",
	"/etc/hostname": "kata\n",
	// The agent writes the pod's name servers here.
	"/etc/resolv.conf": "",
}

// addSkeleton puts in what is not a program.
func (t tree) addSkeleton() error {
	for name, mode := range skeletonDirs {
		if err := t.dir(name, mode); err != nil {
			return err
		}
	}
	for name, text := range skeletonFiles {
		if err := t.file(name, 0o644, []byte(text), ""); err != nil {
			return err
		}
	}
	if err := t.link("/var/run", "/run"); err != nil {
		return err
	}
	// The kernel opens /dev/console as the standard streams of /init before
	// anyone can mount devtmpfs; without the node a panic has no last words.
	if err := t.charDevice("/dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	return t.charDevice("/dev/null", 0o666, 1, 3)
}
