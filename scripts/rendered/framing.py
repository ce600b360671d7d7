"""Constants that rendering and composing share: the camera, and the parts of its picture that are rendered again.

Lengths in the scene are decimetres, in the picture pixels. A region is x, y, width, height.
"""

Region = tuple[int, int, int, int]

WIDTH, HEIGHT = 1280, 720
CAMERA = (0.0, -12.0, 6.42)  # looks along +y
LENS, SENSOR = 70.0, 36.0  # mm
FACE_DISTANCE = 10.6  # from the camera to the lips
PIXELS = LENS / SENSOR * WIDTH / FACE_DISTANCE  # per dm, at that distance

MOUTH_REGION: Region = (516, 360, 248, 236)
EYES_REGION: Region = (500, 258, 280, 110)
LIDS = (0.0, 0.3, 0.6, 0.85, 1.0)  # how far shut the rendered eyelids are
DEPTH_STEP = 8  # pixels between the depths that are kept
