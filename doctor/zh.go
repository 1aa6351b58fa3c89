package doctor

import "github.com/nslab/nslab/course"

// zh is everything the doctor says, in Chinese. A test holds it complete.
func zh() course.Messages {
	return course.Messages{
		// the report
		"Privilege":                      "权限",
		"Namespaces":                     "命名空间",
		"Control groups":                 "控制组",
		"File systems":                   "文件系统",
		"Network":                        "网络",
		"Machine":                        "机器",
		"LAB":                            "实验",
		"CAN IT RUN HERE":                "能否在本机运行",
		"ready":                          "可以运行",
		"blocked by %s":                  "受阻于 %s",
		"blocks %s":                      "影响实验 %s",
		"hint: %s":                       "提示：%s",
		"this machine cannot run %s":     "本机无法运行 %s",
		"%s cannot run here: %s: %s":     "%s 无法在本机运行：%s：%s",
		"this nslab has no probe for it": "当前版本的 nslab 没有对应的探测项",

		// answers
		"%s (%s)":                                "%s（%s）",
		"%s: %s":                                 "%s：%s",
		"it did not come back within 15 seconds": "15 秒内没有返回",
		"the process that tried it died":         "执行探测的进程意外退出",
		"not tried":                              "未探测",
		"not tried: %s is missing":               "未探测：缺少 %s",
		"not tried: nslab cannot run as uid 65534 here":        "未探测：nslab 在本机无法以 uid 65534 的身份运行",
		"the child is in the same namespace as its parent":     "子进程与父进程仍在同一个命名空间里",
		"the kernel agreed, but the mount is not in its table": "内核没有报错，挂载表里却找不到这个挂载",
		"the kernel agreed, but the devices are not there":     "内核没有报错，网卡却没有出现",
		"the kernel agreed, but the table is not there":        "内核没有报错，规则表却没有出现",
		"a changed file does not appear in the upper layer":    "改动的文件没有出现在 upper 层",
		"a deleted file leaves no whiteout in the upper layer": "删除的文件没有在 upper 层留下 whiteout",
		"another nslab is using it":                            "另一个 nslab 正在使用",

		// errno
		"operation not permitted":          "操作不允许",
		"permission denied":                "权限不足",
		"no space left on device":          "空间或配额已用尽",
		"too many users":                   "用户过多",
		"invalid argument":                 "参数无效",
		"function not implemented":         "内核没有这个系统调用",
		"no such file or directory":        "文件或目录不存在",
		"no such device":                   "内核没有这种设备或文件系统",
		"no such device or address":        "没有对应的设备",
		"read-only file system":            "文件系统只读",
		"file exists":                      "文件已存在",
		"device or resource busy":          "设备或资源正忙",
		"operation not supported":          "不支持该操作",
		"protocol not supported":           "不支持该协议",
		"not a directory":                  "不是目录",
		"resource temporarily unavailable": "资源暂时不可用",
		"cannot allocate memory":           "内存不足",
		"disk quota exceeded":              "超出磁盘配额",
		"too many open files":              "打开的文件过多",

		// privilege
		"uid %d with CAP_SYS_ADMIN":                                  "uid %d，有 CAP_SYS_ADMIN",
		"uid %d with CAP_SYS_ADMIN, of a user namespace: uid_map %s": "uid %d，在所属用户命名空间内有 CAP_SYS_ADMIN，uid_map 为 %s",
		"uid %d, root inside a user namespace: %s, uid_map %s":       "uid %d，可在用户命名空间内成为 root：%s，uid_map 为 %s",
		"uid %d without CAP_SYS_ADMIN, and no user namespace: %s":    "uid %d 没有 CAP_SYS_ADMIN，也建不了用户命名空间：%s",
		"CAP_SYS_ADMIN, and yet %s":                                  "虽有 CAP_SYS_ADMIN，仍被拒绝：%s",
		"all %d that making containers takes":                        "运行容器所需的 %d 项全部具备",
		"none; inside a user namespace all, over what belongs to it": "一项也没有；进入用户命名空间后全部具备，但只对该命名空间拥有的资源有效",
		"without %s: no lab needs it, some limits cannot be raised":  "缺少 %s：不影响实验，只是有些资源限制无法调高",
		"without %s":                     "缺少 %s",
		"an ordinary user gets none: %s": "普通用户无法创建：%s",
		"made as uid %d: %s, uid_map %s": "以 uid %d 创建成功：%s，uid_map 为 %s",

		// namespaces
		"%s here, %s in a child": "本进程 %s，子进程 %s",

		// control groups
		"%s: %s → %s":                                    "%s：%s → %s",
		"no control groups are mounted":                  "没有挂载任何控制组层级",
		"no mounted hierarchy has the controller":        "已挂载的层级里都没有这个控制器",
		"no group below %s with it: not delegated to us": "无法在 %s 之下建立带此控制器的控制组：没有委派给当前用户",
		"a group was made":                               "已实际建立控制组",
		"v%d: a group was made in %s":                    "v%d：已在 %s 中实际建立控制组",

		// file systems
		"%s on %s in a private mount namespace, as mount %s of its table":        "已在私有的挂载命名空间里把 %s 挂到 %s，挂载表里的编号是 %s",
		"changes and whiteouts land in an upper layer, in a user namespace too":  "在用户命名空间里，改动和 whiteout 同样落在 upper 层",
		"changes and whiteouts land in an upper layer on %s (%s, mounted on %s)": "改动和 whiteout 都落在 %s 上的 upper 层（%s，挂载于 %s）",
		"%s, on %s (%s)":                                             "%s，位于 %s（%s）",
		"the mount table cannot be read":                             "读不到挂载表",
		"/ is not a mount point of its own":                          "/ 本身不是挂载点",
		"/ is %s: new mounts stay in the namespace they are made in": "/ 的传播类型是 %s：新挂载只留在所在的命名空间里",
		"/ is %s: new mounts appear in other namespaces, so labs make theirs private first": "/ 的传播类型是 %s：新挂载会传播到其他命名空间，所以实验会先把自己的挂载改为 private",

		"it works": "可用",

		// network
		"a pair was made in a new network namespace: %s":                               "已在新的网络命名空间里建立一对网卡：%s",
		"a bridge was made in a new network namespace: %s":                             "已在新的网络命名空间里建立网桥：%s",
		"a table that rewrites addresses was made in a new network namespace: inet %s": "已在新的网络命名空间里建立能改写地址的规则表：inet %s",

		// machine
		"%s: nslab is made for 5.15 and later":                             "%s：nslab 面向 5.15 及更新的内核",
		"%s: nslab is made for 5.15 and later; this one is too old for %s": "%s：nslab 面向 5.15 及更新的内核；此内核没有 %s",
		"%s, nslab built for %s":                                           "%s，nslab 编译目标为 %s",
		"%s, nslab built for %s: tested on amd64 and arm64 only":           "%s，nslab 编译目标为 %s：只在 amd64 和 arm64 上测试过",
		"not on Windows": "不在 Windows 上",
		"WSL 1: there is no Linux kernel, Windows answers the system calls":          "WSL 1：没有 Linux 内核，系统调用由 Windows 应答",
		"WSL 2: a real kernel, in a virtual machine of Windows":                      "WSL 2：运行在 Windows 虚拟机里的真正 Linux 内核",
		"not in a container: the namespaces are the machine's own, whatever %s says": "不在容器里：虽然有 %s，但所在的命名空间就是机器启动时的那一套",
		"not in a container": "不在容器里",
		"the root is an overlay: a container, or a live system": "根文件系统是 overlay：可能是容器，也可能是 live 系统",
		"inside a container: %s, known by %s":                   "在容器里：%s，依据是 %s",
		"none below %s":                                         "%s 下没有遗留",
		"interrupted runs below %s: %s":                         "%s 下有中断的实验：%s",
		"kept on purpose (--keep) below %s: %s":                 "%s 下有 --keep 特意保留的实验：%s",
		"groups of no known run: %s":                            "不属于任何已知实验的控制组：%s",
		"%s; groups of no known run: %s":                        "%s；不属于任何已知实验的控制组：%s",

		// remedies
		"run it as root: %s":                                                                       "以 root 运行：%s",
		"choose a folder that you may write to: %s":                                                "换一个可写的目录：%s",
		"look for what the kernel waits for: %s":                                                   "查看内核在等什么：%s",
		"boot a kernel that was built with it (%s): those of the distributions are":                "换用编译时启用了 %s 的内核：各发行版的内核都已启用",
		"keep nslab's state on ext4, xfs, btrfs or tmpfs: %s":                                      "把 nslab 的数据放到 ext4、xfs、btrfs 或 tmpfs 上：%s",
		"changes and whiteouts land in an upper layer on a tmpfs":                                  "在 tmpfs 上，修改和 whiteout 都落在 upper 层",
		"overlay in user namespaces needs kernel 5.11; as root it works without":                   "在用户命名空间里挂载 overlay 需要 5.11 及以上的内核；以 root 运行则不需要",
		"on the host, not in the container: %s":                                                    "在宿主机（不是容器）上执行：%s",
		"if there is no such module: %s":                                                           "如果没有这个模块：%s",
		"install a newer kernel":                                                                   "安装更新的内核",
		"install a newer kernel on the host":                                                       "在宿主机上安装更新的内核",
		"start the container with %s":                                                              "用以下方式启动容器：%s",
		"on the host: %s":                                                                          "在宿主机上执行：%s",
		"in the pod's container: %s":                                                               "在 pod 的容器配置里加入：%s",
		"start the container with all capabilities, without a seccomp filter and AppArmor profile": "启动容器时授予全部 capability，并关闭 seccomp 和 AppArmor",
		"leave the AppArmor profile %s":                                                            "脱离 AppArmor 配置 %s",
		"start the shell without a seccomp filter":                                                 "在没有 seccomp 过滤器的 shell 里运行",
		"start the shell with all capabilities; these are left: %s":                                "在 capability 完整的 shell 里运行；现有的可这样查看：%s",
		"mount it writable: %s":                                                                    "重新挂载为可写：%s",
		"remove %s from the kernel's command line and reboot: %s":                                  "从内核命令行去掉 %s 后重启：%s",
		"have systemd hand it down: %s":                                                            "让 systemd 把控制器委派下来：%s",
		"convert it, in PowerShell: %s":                                                            "在 PowerShell 里转换：%s",
		"its name is shown by: %s":                                                                 "查看发行版名称：%s",
	}
}
