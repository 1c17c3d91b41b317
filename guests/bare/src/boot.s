# From the PVH entry (32 bits, flat segments, no paging; ebx holds the start info) to Rust in long mode.

.section .note.pvh, "a", @note
.align 4
    .long 4                     # bytes of the name
    .long 8                     # bytes of the description
    .long 18                    # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

.section .boot, "awx"
.code32
.global pvh_start
pvh_start:
    cli
    cld
    mov esp, offset boot_stack_top
    mov esi, ebx

    # The first 4 GiB as they are, in pages of 2 MiB. From 2 GiB on they are for devices: not cached.
    mov eax, offset page_directories
    or eax, 3
    mov edi, offset page_pointers
    mov ecx, 4
1:  mov dword ptr [edi], eax
    mov dword ptr [edi + 4], 0
    add eax, 4096
    add edi, 8
    dec ecx
    jnz 1b
    mov eax, 0x83
    mov edi, offset page_directories
    mov ecx, 2048
2:  cmp ecx, 1024
    jne 3f
    or eax, 0x18
3:  mov dword ptr [edi], eax
    mov dword ptr [edi + 4], 0
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 2b
    mov eax, offset page_pointers
    or eax, 3
    mov dword ptr [page_map], eax

    mov eax, offset page_map
    mov cr3, eax
    mov eax, cr4
    or eax, 0x620               # PAE; SSE and its exceptions, which compiled code uses
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100               # long mode
    wrmsr
    mov eax, cr0
    and eax, 0xfffffffb         # no x87 emulation
    or eax, 0x80000002          # paging; x87 monitored
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    # A far jump to 64-bit code.
    push 8
    mov eax, offset long_start
    push eax
    retf

.code64
long_start:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    # The task state, for the stack that interrupts switch to: compiled code uses 128 bytes below its own.
    lea rax, [rip + task_state]
    lea rdx, [rip + boot_gdt]
    mov word ptr [rdx + 26], ax
    shr rax, 16
    mov byte ptr [rdx + 28], al
    mov byte ptr [rdx + 31], ah
    lea rax, [rip + interrupt_stack_top]
    mov qword ptr [rip + task_state + 36], rax
    mov ax, 24
    ltr ax
    mov edi, esi
    lea rsp, [rip + boot_stack_top]
    call rust_start
4:  hlt
    jmp 4b

.align 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff    # 8: code, 64 bits
    .quad 0x00cf92000000ffff    # 16: data
    .quad 0x0000890000000067    # 24: task state; its address comes at run time
    .quad 0
boot_gdt_pointer:
    .word boot_gdt_pointer - boot_gdt - 1
    .quad boot_gdt

.align 16
task_state:
    .fill 104, 1, 0

# 48 entries of 16 bytes: a number for the error code where the processor has none, and the vector.
.text
.align 16
.global interrupt_entries
interrupt_entries:
.set vector, 0
.rept 48
    .align 16
    .if (vector != 8) && (vector < 10 || vector > 14) && (vector != 17) && (vector != 21)
    push 0
    .endif
    push vector
    jmp interrupt_common
    .set vector, vector + 1
.endr

interrupt_common:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push rbp
    mov rbp, rsp
    cld
    sub rsp, 512
    and rsp, -16
    fxsave [rsp]
    mov rdi, [rbp + 80]         # the vector
    mov rsi, [rbp + 88]         # the error code
    mov rdx, [rbp + 96]         # the instruction
    call rust_interrupt
    fxrstor [rsp]
    mov rsp, rbp
    pop rbp
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

.bss
.align 4096
.global page_map
page_map: .skip 4096
page_pointers: .skip 4096
page_directories: .skip 4 * 4096
    .skip 256 * 1024
boot_stack_top:
    .skip 32 * 1024
interrupt_stack_top:
