package configuration

// file is configuration.toml as written: the keys that mean something here.
type file struct {
	haveCLH    bool // the table is written somewhere
	Hypervisor struct {
		CLH clhTable `toml:"clh"`
	} `toml:"hypervisor"`
	Agent struct {
		Kata agentTable `toml:"kata"`
	} `toml:"agent"`
	Runtime runtimeTable `toml:"runtime"`
}

type clhTable struct {
	Path                  string   `toml:"path"`
	Kernel                string   `toml:"kernel"`
	Image                 string   `toml:"image"`
	Initrd                string   `toml:"initrd"`
	KernelParams          string   `toml:"kernel_params"`
	DefaultVCPUs          float64  `toml:"default_vcpus"`
	DefaultMaxVCPUs       uint32   `toml:"default_maxvcpus"`
	DefaultMemory         uint32   `toml:"default_memory"`
	DefaultMaxMemory      uint64   `toml:"default_maxmemory"` // MiB
	SharedFS              string   `toml:"shared_fs"`
	BlockDeviceDriver     string   `toml:"block_device_driver"`
	DisableBlockDeviceUse bool     `toml:"disable_block_device_use"`
	ConfidentialGuest     bool     `toml:"confidential_guest"`
	SEVSNPGuest           bool     `toml:"sev_snp_guest"`
	IGVM                  string   `toml:"igvm"`
	EnableHugepages       bool     `toml:"enable_hugepages"`
	DiskBandwidth         uint64   `toml:"disk_rate_limiter_bw_max_rate"` // bits per second
	DiskBandwidthBurst    uint64   `toml:"disk_rate_limiter_bw_one_time_burst"`
	DiskOps               uint64   `toml:"disk_rate_limiter_ops_max_rate"`
	DiskOpsBurst          uint64   `toml:"disk_rate_limiter_ops_one_time_burst"`
	NetBandwidth          uint64   `toml:"net_rate_limiter_bw_max_rate"` // bits per second
	NetBandwidthBurst     uint64   `toml:"net_rate_limiter_bw_one_time_burst"`
	NetOps                uint64   `toml:"net_rate_limiter_ops_max_rate"`
	NetOpsBurst           uint64   `toml:"net_rate_limiter_ops_one_time_burst"`
	EnableDebug           bool     `toml:"enable_debug"`
	DisableSeccomp        bool     `toml:"disable_seccomp"`
	EnableAnnotations     []string `toml:"enable_annotations"`
}

type agentTable struct {
	EnableDebug         bool     `toml:"enable_debug"`
	DebugConsoleEnabled bool     `toml:"debug_console_enabled"`
	KernelModules       []string `toml:"kernel_modules"`
	DialTimeout         uint32   `toml:"dial_timeout"` // seconds
}

type runtimeTable struct {
	EnableDebug            bool    `toml:"enable_debug"`
	Model                  string  `toml:"internetworking_model"`
	DisableNewNetNS        bool    `toml:"disable_new_netns"`
	DisableGuestSeccomp    bool    `toml:"disable_guest_seccomp"`
	OCIVersion             string  `toml:"oci_version"`
	StaticSizing           bool    `toml:"static_sandbox_resource_mgmt"`
	DefaultWorkloadMem     uint32  `toml:"static_sandbox_default_workload_mem"` // MiB
	DefaultWorkloadVCPUs   float64 `toml:"static_sandbox_default_workload_vcpus"`
	CreateContainerTimeout uint32  `toml:"create_container_timeout"` // seconds
	AllowMissingPolicy     bool    `toml:"allow_missing_policy"`
}

// defaults is what holds where the file says nothing.
func defaults() *file {
	f := &file{}
	f.Hypervisor.CLH = clhTable{DefaultVCPUs: 1, DefaultMemory: 2048, SharedFS: "none", BlockDeviceDriver: "virtio-blk"}
	f.Agent.Kata = agentTable{DialTimeout: 45}
	f.Runtime = runtimeTable{Model: "tcfilter", StaticSizing: true, CreateContainerTimeout: 60}
	return f
}

// ignored are keys of Kata Containers that mean nothing here: what they tune
// does not exist, or has one setting only. They are reported, not refused.
var ignored = map[string]string{
	"hypervisor.clh": `block_device_aio block_device_cache_direct block_device_cache_noflush
		block_device_cache_set block_device_logical_sector_size block_device_physical_sector_size
		cold_plug_vfio cpu_features ctlpath default_bridges disable_guest_selinux
		disable_image_nvdimm disable_nesting_checks disable_selinux disable_vhost_net
		enable_iommu enable_iommu_platform enable_iothreads enable_mem_prealloc enable_numa
		enable_vhost_user_store enable_virtio_mem entropy_source extra_monitor_socket file_mem_backend
		firmware_volume guest_memory_dump_paging guest_memory_dump_path hot_plug_vfio
		hypervisor_loglevel indep_iothreads jailer_path machine_accelerators machine_type
		measurement_algo memory_offset memory_slots msize_9p numa_mapping pcie_root_port
		pcie_switch_port pflashes reclaim_guest_freed_memory remote_hypervisor_socket
		remote_hypervisor_timeout rootfs_type rx_rate_limiter_max_rate seccompsandbox
		snp_guest_policy tdx_quote_generation_service_socket_port tx_rate_limiter_max_rate
		use_legacy_serial valid_ctlpaths valid_entropy_sources valid_file_mem_backends
		valid_hypervisor_paths valid_jailer_paths valid_vhost_user_store_paths
		valid_virtio_fs_daemon_paths vhost_user_reconnect_timeout_sec vhost_user_store_path
		virtio_fs_cache virtio_fs_cache_size virtio_fs_daemon virtio_fs_extra_args
		virtio_fs_queue_size`,
	"agent.kata": "cdh_api_timeout launch_process_timeout visible_cdi_devices",
	"runtime": `emptydir_mode enable_pprof enable_tracing jaeger_endpoint jaeger_password jaeger_user
		kubelet_root_dir pod_resource_api_sock sandbox_cgroup_only vfio_mode`,
	"factory": "enable_template template_path vm_cache_endpoint vm_cache_number",
	"image":   "provision service_offload",
}

// refused are keys of Kata Containers that change what the operator gets, and
// that cannot be had here. Set to anything but their zero value they are errors.
var refused = map[string]string{
	"hypervisor.clh.snp_id_auth":            "the VMM's API has no place for it",
	"hypervisor.clh.snp_id_block":           "the VMM's API has no place for it",
	"hypervisor.clh.firmware":               "the guest is booted from its kernel",
	"hypervisor.clh.kernel_verity_params":   "put them into kernel_params",
	"hypervisor.clh.rootless":               "the VMM runs as the user of the shim",
	"hypervisor.clh.guest_hook_path":        "hooks of the guest are not run",
	"hypervisor.clh.guest_extension_images": "the guest has one root file system",
	"hypervisor.clh.enable_guest_swap":      "the guest has no swap space",
	"agent.kata.enable_tracing":             "there is no tracing",
	"agent.kata.container_pipe_size":        "the agent chooses the size of its pipes",
	"runtime.guest_selinux_label":           "the guest has no SELinux",
	"runtime.enable_vcpus_pinning":          "processors are not pinned",
	"runtime.sandbox_bind_mounts":           "the guest shares no files with the host",
	"runtime.disable_guest_empty_dir":       "an emptyDir lives in the guest: it shares no files with the host",
	"runtime.experimental":                  "there are no experimental features",
	"runtime.experimental_force_guest_pull": "images are not pulled in the guest",
	"runtime.dan_conf":                      "interfaces come from the network namespace",
}
