package cgroups

import "github.com/nslab/nslab/course"

// zh is what the steps and the errors say, in Chinese.
func zh() course.Messages {
	return course.Messages{
		// the table of both spellings
		"             in v1                         in v2":                        "             v1                            v2",
		"members      cgroup.procs, tasks           cgroup.procs, cgroup.threads": "成员         cgroup.procs, tasks           cgroup.procs, cgroup.threads",
		"CPU limit    cpu.cfs_quota_us, …period_us  cpu.max":                      "CPU 配额     cpu.cfs_quota_us, …period_us  cpu.max",
		"CPU weight   cpu.shares                    cpu.weight":                   "CPU 权重     cpu.shares                    cpu.weight",
		"CPU used     cpuacct.usage, cpu.stat       cpu.stat":                     "CPU 用量     cpuacct.usage, cpu.stat       cpu.stat",
		"CPUs         cpuset.cpus                   cpuset.cpus":                  "绑定 CPU     cpuset.cpus                   cpuset.cpus",
		"memory limit memory.limit_in_bytes         memory.max":                   "内存上限     memory.limit_in_bytes         memory.max",
		"memory used  memory.usage_in_bytes         memory.current":               "内存用量     memory.usage_in_bytes         memory.current",
		"OOM kills    memory.oom_control            memory.events":                "OOM 次数     memory.oom_control            memory.events",
		"tasks        pids.max                      pids.max":                     "任务数       pids.max                      pids.max",
		"disk limit   blkio.throttle.*_device       io.max":                       "磁盘限速     blkio.throttle.*_device       io.max",
		"freeze       freezer.state                 cgroup.freeze":                "冻结         freezer.state                 cgroup.freeze",
		"kill all     freeze, kill each, thaw       cgroup.kill":                  "全部杀死     冻结、逐个杀、解冻            cgroup.kill",

		// hierarchies
		"mode: %s":           "模式：%s",
		"v%s  %s  at %s":     "v%s  %s  挂载于 %s",
		"    nslab is in %s": "    nslab 位于 %s",
		"the mount at %s does not show the group that nslab is in": "%s 处的挂载里看不到 nslab 所在的组",
		"%s lists nslab's own process":                             "%s 里列有 nslab 自己的进程",

		// every step
		"here, in v%s: %s · in v%s: %s":                                   "本机 v%s：%s · v%s：%s",
		"left out: no group with the controller %s can be made here (%s)": "略过：这里无法建立带 %s 控制器的组（%s）",
		"trying to make one fails":                                        "实际去建，确实失败",

		// mkdir
		"before mkdir the folder was not there":                  "mkdir 之前目录不存在",
		"mkdir made one folder; in it the kernel made %s files:": "mkdir 只建了一个目录，内核在里面放了 %s 个文件：",
		"%s": "%s",
		"among them the one that limits CPU time":    "其中有限制 CPU 时间的那个文件",
		"no process is in the new group":             "新建的组里没有进程",
		"unlink %s: %s":                              "unlink %s：%s",
		"a file of a group cannot be deleted":        "控制组里的文件删不掉",
		"rmdir removes the group with all its files": "rmdir 把组连同所有文件一起删除",

		// busy
		"a new group has no limit: %s":                                         "新建的组没有上限：%s",
		"in %s the group used %s of CPU time, %s of one CPU":                   "%s 内，组用了 %s CPU 时间，相当于一个 CPU 的 %s",
		"/proc/%s/stat counted %s; it waited %s more while others had the CPU": "/proc/%s/stat 记了 %s；另有 %s 在等待，当时 CPU 由别人占用",
		"times that it was held back by a limit: %s":                           "因上限而被拦下的次数：%s",
		"the loop had a CPU, or waited for its turn, nearly all the time":      "循环几乎一直在用 CPU，或在排队等 CPU",
		"no limit has held it back":                                            "没有被任何上限拦下",
		"the group's count and the process's own agree":                        "组的统计与进程自己的统计一致",

		// limit-cpu
		"cgroup.procs lists process %s; %s its threads, %s of them":                        "cgroup.procs 列出进程 %s；%s 列出它的线程，共 %s 个",
		"the box is the only process in the group":                                         "组里只有盒子这一个进程",
		"the loop used %s of a CPU over %s; throttled in %s of %s periods":                 "循环用了一个 CPU 的 %s（历时 %s）；%[4]s 个周期里有 %[3]s 个被限流",
		"the kernel has the limit":                                                         "内核里的上限与写入的一致",
		"usage is at most a quarter of a CPU":                                              "用量不超过四分之一个 CPU",
		"the machine is busy: others left it less than its quota, which was never used up": "机器正忙：别的进程留给它的还不到配额，所以配额一次也没用完",
		"nr_throttled grew": "nr_throttled 增长了",
		"it got its quota in the periods that it was throttled in": "在被限流的周期里，它用到了自己的配额",

		// weight
		"two loops on CPU %s in one second: %s and %s":                                                "CPU %s 上的两个循环，一秒内各用了 %s 和 %s",
		"the kernel has the weights":                                                                  "内核里的权重与写入的一致",
		"they share the CPU in the ratio of their weights":                                            "两者按权重之比分享 CPU",
		"the heavier one is gone: in the next %s the lighter one used %s, and CPU %s was idle for %s": "权重大的已结束：随后 %s 内，权重小的用了 %s，CPU %s 的空闲时间为 %s",
		"nobody is left to share with in this fight":                                                  "这场竞争里已经没有对手",
		"the lighter one takes all that is left":                                                      "剩下的 CPU 全归权重小的",

		// memory
		"the kernel has the limit of 32 MiB": "内核里的上限是 32 MiB",
		"the box asked for 64 MiB, was given the addresses, and wrote to one page after the other": "盒子申请 64 MiB，拿到了地址，然后一页一页地写",
		"it ended by: %s":                                                           "它的结局：%s",
		"the process was killed with SIGKILL":                                       "进程是被 SIGKILL 杀死的",
		"the kernel counts one OOM kill in this group":                              "内核在这个组里记下一次 OOM kill",
		"this kernel does not keep the peak of a v2 group (memory.peak is of 5.19)": "这个内核不记录 v2 组的峰值（memory.peak 自 5.19 起才有）",
		"the most that the group ever held: %s":                                     "这个组占用过的最大内存：%s",
		"it got up to the limit, and not beyond":                                    "到达上限，没有超过",

		// pids
		"the box is a Go program with %s threads, and each would count; so only a bare fork of it, process %s, is in the group": "盒子是 Go 程序，有 %s 个线程，每个都算数；所以进组的只是它 fork 出的单线程进程 %s",
		"pids.current of pids.max before the loop":                                           "循环开始前的 pids.current 与 pids.max",
		"forked in the box, by their numbers there: %s; then: %s":                            "盒子里 fork 出的进程（按里面的编号）：%s；再往后：%s",
		"pids.current = %s, pids.max = %s, pids.events: max %s (spelled alike in v1 and v2)": "pids.current = %s，pids.max = %s，pids.events：max %s（v1 与 v2 写法相同）",
		"one more fork is refused with EAGAIN":                                               "再 fork 一次，被 EAGAIN 拒绝",
		"five processes are in the group, none more":                                         "组里有五个进程，一个不多",
		"pids.events counted the refusal":                                                    "pids.events 记下了这次拒绝",

		// cpuset
		"both versions say cpuset.cpus and cpuset.mems; v1 must have both filled before a process may join, v2 inherits": "两个版本都叫 cpuset.cpus 和 cpuset.mems；v1 必须先填好，进程才能加入，v2 则从父组继承",
		"Cpus_allowed_list in /proc/%s/status: before %s, now %s":                                                        "/proc/%s/status 里的 Cpus_allowed_list：之前 %s，现在 %s",
		"where it was seen running, in ten looks at /proc/%s/stat: CPU %s":                                               "看了十次 /proc/%s/stat，它都在 CPU %s 上运行",
		"this machine has only one CPU, so it had no choice before either":                                               "这台机器只有一个 CPU，之前它也没得选",
		"the kernel allows it that CPU alone":                                                                            "内核只允许它用这个 CPU",
		"it runs nowhere else":                                                                                           "它没有在别处运行",

		// io
		"left out: %s, and the other folders that nslab may use, are on no disk that can be throttled": "略过：%s 以及 nslab 可用的其他目录，都不在可以限速的磁盘上",
		"the device number of its file system is not a disk's":                                         "它所在文件系统的设备号不对应任何磁盘",
		"left out: the kernel was built without throttling (no %s)":                                    "略过：内核编译时没有打开限速功能（没有 %s）",
		"the group has no such file":                                                                   "组里没有这个文件",
		"left out: the file system of %s cannot write past the page cache (%s)":                        "略过：%s 所在的文件系统不能绕过页缓存写入（%s）",
		"the kernel refuses such a file":                                                               "内核拒绝这样的文件",
		"2 MiB to %s (device %s): without a limit in %s, %s":                                           "向 %s（设备 %s）写 2 MiB：没有上限时用时 %s，%s",
		"with a limit of 2 MiB/s: in %s, %s; the group's counter grew by %s":                           "上限为 2 MiB/s 时：用时 %s，%s；组的计数增加了 %s",
		"the kernel counts these bytes as the group's":                                                 "内核把这些字节记在这个组的账上",
		"writing took as long as the limit demands":                                                    "写入的用时正是上限所要求的",
		"the disk is so slow, or so busy, that the limit makes little difference":                      "磁盘太慢或太忙，加不加上限差别不大",

		// accounting
		"after its work:  CPU %s · memory %s now, %s at most · tasks %s": "干完活之后：CPU %s · 内存现在 %s，最多 %s · 任务 %s",
		"after its death: CPU %s · memory %s now, %s at most · tasks %s": "死了之后：  CPU %s · 内存现在 %s，最多 %s · 任务 %s",
		"nobody is in the group any more":                                "组里已经没有进程",
		"the CPU time of the dead process is still on the account":       "死去的进程用掉的 CPU 时间还在账上",
		"its memory was counted while it lived":                          "它活着时，内存记在账上",
		"and given back when it died":                                    "它死后，内存已归还",

		// freeze
		"the loop is running": "循环在运行",
		"CPU time in /proc/%s/stat: %s when frozen, %s after 0.3 s":           "/proc/%s/stat 里的 CPU 时间：冻结时 %s，0.3 秒后 %s",
		"its state is %s: there is no letter for frozen, v1 shows D and v2 S": "它的状态是 %s：没有专门表示冻结的字母，v1 显示 D，v2 显示 S",
		"the kernel says that the group is frozen":                            "内核说这个组已冻结",
		"its CPU time stands still":                                           "它的 CPU 时间不再增长",
		"the process is still there":                                          "进程还在",
		"after the thaw it goes on where it stopped: %s":                      "解冻后从停下的地方继续：%s",
		"thawed, its CPU time grows again":                                    "解冻后，CPU 时间又在增长",

		// kill
		"in the group: processes %s, three containers that know nothing of each other": "组里有进程 %s，是三个互不知晓的容器",
		"a group with processes in it cannot be removed":                               "有进程的组删不掉",
		"v1: FROZEN, SIGKILL to each in cgroup.procs, THAWED · v2: 1 to cgroup.kill":   "v1：写 FROZEN，给 cgroup.procs 里的每个进程发 SIGKILL，再写 THAWED · v2：往 cgroup.kill 写 1",
		"cgroup.events says: %s":      "cgroup.events 的内容：%s",
		"all three are dead":          "三个都死了",
		"nobody is left in the group": "组里一个进程也不剩",
		"now rmdir removes it: %s":    "现在 rmdir 能删掉它了：%s",

		// what errors say: conditions
		"the kernel was built with the controller":                               "内核编译时带有这个控制器",
		"it was not disabled at boot":                                            "启动时没有被禁用",
		"a mounted hierarchy offers it":                                          "某个已挂载的层级提供它",
		"the group we are in is offered the controllers":                         "我们所在的组分到了这些控制器",
		"nobody but nslab is in our group, so that it can hand controllers down": "我们的组里只有 nslab，因此可以把控制器下放",
		"the process exists":                                                     "进程存在",
		"the group is a domain, not a threaded one":                              "这个组是 domain 类型，不是 threaded",
		"the folder exists":                                                      "目录存在",
		"the kernel has put this file there":                                     "内核放了这个文件",
		"the parent has switched the controller on":                              "父组打开了这个控制器",
		"the value is one that the kernel takes":                                 "值在内核接受的范围内",
		"memory alone is not allowed more than memory and swap together":         "内存的上限不超过内存加交换的上限",
		"memory and swap together are not allowed less than memory alone":        "内存加交换的上限不低于内存的上限",
		"a burst is at most one quota":                                           "突发量不超过一份配额",
		"the group is not idle, which is a weight of its own":                    "组没有设为 idle（idle 本身就是一种权重）",
		"it is within what the parent group has":                                 "没有超出父组的范围",
		"no process is in the group":                                             "组里没有进程",
		"it has no child groups":                                                 "没有子组",
		"no process is in a group that hands controllers down":                   "下放控制器的组里没有进程",
		"a group that processes join hands no controllers down":                  "要加入的组没有下放控制器",
		"no process needs the CPUs or memory nodes that are taken away":          "要收回的 CPU 或内存节点没有进程在用",
		"the group uses less than the new limit":                                 "组的用量低于新的上限",
		"we may write there":                                                     "我们可以写",
		"the cgroup file system is mounted read-write":                           "cgroup 文件系统以读写方式挂载",
		"the group has CPUs and memory nodes":                                    "组有可用的 CPU 和内存节点",
		"the device is a whole disk, not a partition":                            "设备是整块磁盘，不是分区",

		// and remedies
		"boot a kernel that has it": "换一个带有它的内核启动",
		"remove cgroup_disable= from the kernel's command line; on a Raspberry Pi add cgroup_enable=memory":      "从内核命令行里去掉 cgroup_disable=；树莓派上要加 cgroup_enable=memory",
		"mount it (mount -t cgroup2 none /sys/fs/cgroup), or have the parent group switch it on":                 "挂载它（mount -t cgroup2 none /sys/fs/cgroup），或让父组打开它",
		"run as root, or have the administrator set Delegate=yes for user@.service":                              "以 root 运行，或请管理员为 user@.service 设置 Delegate=yes",
		"start nslab in a group of its own (systemd-run --user --scope -p Delegate=yes), or move the others out": "让 nslab 在自己的组里启动（systemd-run --user --scope -p Delegate=yes），或把其他进程移走",
		"it has ended, or its number is one of another PID namespace":                                            "它已结束，或者这是另一个 PID 命名空间里的编号",
		"use a group outside of the threaded subtree":                                                            "换用 threaded 子树之外的组",
		"make the group first":                               "先建组",
		"boot a newer kernel, or one that was built with it": "换更新的、或编译时带有它的内核启动",
		"write the controller's name with a + before it to the parent's cgroup.subtree_control": "把控制器名字前面加上 +，写入父组的 cgroup.subtree_control",
		"choose a value in this range; -1 (v1) or max (v2) lifts a limit":                       "选一个范围内的值；-1（v1）或 max（v2）表示取消上限",
		"raise memory.memsw.limit_in_bytes first":                                               "先调高 memory.memsw.limit_in_bytes",
		"lower memory.limit_in_bytes first":                                                     "先调低 memory.limit_in_bytes",
		"set the quota first":                                                                   "先设置配额",
		"write 0 to cpu.idle first":                                                             "先往 cpu.idle 写 0",
		"stay within the parent's value, or raise that one first":                               "不要超出父组的值，或先调高父组的值",
		"kill the processes, or move them to another group, first":                              "先杀掉这些进程，或把它们移到别的组",
		"remove the children first":                                                             "先删除子组",
		"move the processes into a child group first":                                           "先把进程移到子组里",
		"join a child group of it":                                                              "改为加入它的子组",
		"free memory first, or choose a higher limit":                                           "先释放内存，或选更高的上限",
		"run as root; on v2 as a user: systemd-run --user --scope -p Delegate=yes nslab …":      "以 root 运行；v2 下普通用户可用：systemd-run --user --scope -p Delegate=yes nslab run 03",
		"in a container: start that one with --privileged, or with a writable /sys/fs/cgroup":   "在容器里：以 --privileged 启动该容器，或让 /sys/fs/cgroup 可写",
		"copy the parent's value into this file first":                                          "先把父组的值抄进这个文件",
		"use the numbers of the disk, as lsblk shows them":                                      "使用整块磁盘的设备号，见 lsblk",
	}
}
