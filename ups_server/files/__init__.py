"""Files of users: uploads that survive anything, and their examination in a confined process. Imports no torch.

The API process stores bytes and reads JSON; it never opens a user's HDF5. `examination_process` does, without network,
within limits of memory, time and disk, and leaves a store of our own layout, a picture and a report.
"""
